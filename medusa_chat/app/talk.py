"""What the user says, and what is done with what has been said."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from textual import on
from textual.binding import BindingType
from textual.reactive import var

from medusa_chat.app import keys
from medusa_chat.app.attachments import attach, read_attached
from medusa_chat.app.clipboard import copy
from medusa_chat.app.conversation import Conversation, Turn
from medusa_chat.app.exchange import Exchange
from medusa_chat.app.keys import bindings
from medusa_chat.app.prompt import Prompt
from medusa_chat.app.race_screen import RaceScreen
from medusa_chat.app.turn_list import TurnList
from medusa_chat.errors import UsageError


class Talk(Exchange):
    """Sends, edits, asks again, goes on, browses, copies, colours and races."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(keys.TALK), *bindings(keys.CHAT, priority=True)]

    _edited: var[Turn | None] = var(None, bindings=True)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Esc is in the footer while there is something to stop, or an edit to leave."""
        return action != "stop" or self.is_answering or self._edited is not None

    # Sent

    async def take(self, text: str, pasted: tuple[str, ...] = ()) -> None:
        """A message the user has sent; one that can't be taken goes back into the box."""
        if not text.strip():
            self.prompt.hint("Type a message first")
        elif reason := self._why_not():
            self._refuse(text, reason)
        elif "@" in text:
            self.run_worker(self._attach_and_ask(text, pasted), group="attach")
        else:
            await self._ask(text.strip())

    async def _attach_and_ask(self, text: str, pasted: tuple[str, ...]) -> None:
        """With the files it names; beside the screen, since a disk may be slow."""
        try:
            attached = await asyncio.to_thread(attach, text.strip(), self._tokens_left, pasted)
        except UsageError as error:
            self._refuse(text, "")
            await self.say(str(error), is_error=True)
            return
        if reason := self._why_not():
            self._refuse(text, reason)
        else:
            await self._ask(attached.sent)

    @property
    def _tokens_left(self) -> int | None:
        """For a message. None while no model says how long its context is."""
        info = self._loader.info
        if info is None:
            return None
        makes_room = self.options.context == "drop-oldest"
        return info.context_length - (0 if makes_room else (self.meter.context_tokens or 0))

    async def _ask(self, content: str) -> None:
        await self._leave_edit(asked=True)
        question = self.conversation.add("user", content)
        await self.chat.show(self.chat.widget_of(question))
        await self._begin_answer()

    def _refuse(self, text: str, reason: str) -> None:
        self.prompt.give_back(text)
        self.prompt.hint(reason)

    # Said otherwise

    async def action_again(self) -> None:
        """Another answer to the last question."""
        turns = self.conversation.turns
        if not turns:
            self.prompt.hint("There is nothing to answer again yet")
        elif turns[-1].role == "assistant":
            await self._answer_again(turns[-1])
        elif self._can_ask():
            await self._begin_answer()

    @on(TurnList.AgainWanted)
    async def answer_again(self, event: TurnList.AgainWanted) -> None:
        await self._answer_again(event.turn)

    async def _answer_again(self, turn: Turn) -> None:
        if self._can_ask():
            self.conversation.go_before(turn)
            await self.chat.keep_only(self.conversation.turns)
            await self._begin_answer()

    def _can_ask(self) -> bool:
        reason = self._why_not()
        if reason:
            self.prompt.hint(reason)
        return reason is None

    async def action_go_on(self) -> None:
        """Has a reply that was stopped, or ended at its most tokens, gone on with."""
        turns = self.conversation.turns
        if not turns or turns[-1].role != "assistant":
            self.prompt.hint("There is no reply to go on with")
        elif self._can_ask():
            await self.chat.keep_only(turns[:-1])
            await self._begin_answer(turns[-1])

    @on(TurnList.EditWanted)
    def edit(self, event: TurnList.EditWanted) -> None:
        if self._can_ask():
            self._edited = event.turn
            self.prompt.text = read_attached(event.turn.content).typed
            self.prompt.move_cursor(self.prompt.document.end)
            self.screen.set_focus(self.prompt)
            self.prompt.hint("Enter asks from here anew, Esc leaves it as it was")

    async def _enter(self, conversation: Conversation, message_id: int | None) -> None:
        self._edited = None
        await super()._enter(conversation, message_id)

    async def _leave_edit(self, *, asked: bool) -> None:
        turn, self._edited = self._edited, None
        if turn is not None and asked:
            self.conversation.go_before(turn)
            await self.chat.keep_only(self.conversation.turns)
        elif turn is not None:
            self.prompt.clear()

    @on(TurnList.OtherWanted)
    async def show_other(self, event: TurnList.OtherWanted) -> None:
        """The alternative beside a message, and what followed it."""
        others = self.conversation.alternatives(event.turn)
        place = others.index(event.turn) + event.direction
        if self.is_answering:
            self.prompt.hint("A reply is under way: Esc stops it")
        elif 0 <= place < len(others):
            self.conversation.choose(others[place])
            await self.chat.show_turns(self.conversation.turns, others[place])
            self.chat.select(others[place])
            self._save_beside()

    @on(TurnList.CopyWanted)
    async def copy(self, event: TurnList.CopyWanted) -> None:
        self.run_worker(self._copy(event.text, event.what), group="copy")

    async def _copy(self, text: str, what: str) -> None:
        self.prompt.hint(await copy(text, what, self.app.copy_to_clipboard))

    def action_select_message(self) -> None:
        self.chat.turns.select_last()

    def action_origins(self) -> None:
        """Colours replies by whose guess each token was, or no longer."""
        self.chat.view = "rendered" if self.chat.view == "origins" else "origins"
        if self.chat.view == "origins" and not any(turn.pieces for turn in self.conversation.turns):
            self.prompt.hint("Replies of this session are coloured by who guessed each token")

    def action_race(self) -> None:
        """Plain decoding against Medusa, on the last question."""
        turns = self.conversation.turns
        last = next((turn for turn in reversed(turns) if turn.role == "user" and not turn.refused), None)
        if last is None:
            self.prompt.hint("Ask something first: its answer is what is raced for")
        elif self._loader.phase != "ready":
            self.prompt.hint("The model isn't loaded yet")
        elif self._can_ask():
            messages = self.conversation.messages(up_to=last)
            self.app.push_screen(RaceScreen(self._link, messages, self.options))

    async def action_stop(self) -> None:
        """A question not yet asked is withdrawn, and an edit left."""
        if self._is_asked:
            self._link.stop()
        elif self._answer is not None:
            self._answer.widget.remove()
            self._answer = None
        else:
            await self._leave_edit(asked=False)

    @on(Prompt.ScrolledChat)
    def scroll_chat(self, event: Prompt.ScrolledChat) -> None:
        self.chat.page(event.pages)
