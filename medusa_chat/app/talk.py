"""One conversation and the reply under way: asked, grown, ended, saved, left for another."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message

from medusa_chat.app import dials
from medusa_chat.app.answer import Answer
from medusa_chat.app.attachments import attach
from medusa_chat.app.chat_view import ChatView
from medusa_chat.app.conversation import Conversation, Recorder
from medusa_chat.app.engine_link import EngineLink
from medusa_chat.app.loader import Loader
from medusa_chat.app.messages import ReplyBegan, ReplyEnded, ReplyGrew
from medusa_chat.app.meter import PlainReference, ReplyMeter
from medusa_chat.app.prompt import Prompt
from medusa_chat.app.sentences import sentence_of
from medusa_chat.app.strip import StatusStrip
from medusa_chat.app.turns import AssistantTurn, UserTurn
from medusa_chat.errors import EngineCrashed, HistoryError, PromptTooLong, UsageError
from medusa_chat.history import History
from medusa_chat.records import SamplingOptions

_SECONDS_BETWEEN_SAVES = 0.7


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A conversation to go to, and the row of the message in it to show."""

    conversation: Conversation
    message_id: int | None


class Talk(Vertical):
    """The chat and the box below it. A message sent while the model is loaded waits for it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "stop", "Stop", key_display="Esc")]

    class Measured(Message):
        """The figures of the reply under way have changed."""

    class Kept(Message):
        """The conversation on the screen is another one, or has been saved. id: None where it has no row."""

        def __init__(self, conversation_id: int | None) -> None:
            super().__init__()
            self.conversation_id = conversation_id

    class EngineLost(Message):
        """The engine died in a reply: it has to be loaded again."""

    def __init__(
        self, history: History, link: EngineLink, loader: Loader, options: SamplingOptions, system: str | None
    ) -> None:
        super().__init__()
        self.conversation = Conversation(system)
        self.options = options
        self.chat = ChatView()
        self.strip = StatusStrip()
        self.prompt = Prompt(
            dials.option_values, placeholder="Ask something. Enter sends, Ctrl+J begins a new line."
        )
        self._link = link
        self._loader = loader
        self._recorder = Recorder(history)
        self._saving_fails = False
        self._answer: Answer | None = None
        self._plain = PlainReference()
        self.meter = ReplyMeter(self._plain)
        self._next: _Wanted | None = None  # when the reply under way has ended

    def compose(self) -> ComposeResult:
        yield self.chat
        yield self._loader
        yield self.strip
        yield self.prompt
        yield self.prompt.popup

    async def on_mount(self) -> None:
        await self.chat.greet(self._greeting)
        self.set_interval(_SECONDS_BETWEEN_SAVES, self._save_beside)

    def on_show(self) -> None:
        # A terminal too small for the chat has hidden the box, which costs it the keys.
        if self.screen.focused is None:
            self.prompt.focus()

    async def on_unmount(self) -> None:
        await self.save()

    @property
    def is_answering(self) -> bool:
        """A message has been sent and its reply has not ended."""
        return self._answer is not None

    @property
    def _is_asked(self) -> bool:
        return self._answer is not None and self._answer.is_asked

    @property
    def _greeting(self) -> str:
        return {
            "loading": "The model is being loaded. Your first message waits for it.",
            "ready": "Ask something. Ctrl+O opens earlier conversations, /help shows keys and commands.",
            "down": "No model is loaded.",
        }[self._loader.phase]

    async def say(self, text: str, *, is_error: bool = False) -> None:
        """One sentence of the program, after the turns."""
        await self.chat.notice(text, is_error=is_error)

    def use(self, options: SamplingOptions) -> None:
        """From now on, the next step of a reply under way included."""
        before, self.options = self.options, options
        if self._is_asked:
            self._link.set_options(options)
            if (options.drafting, options.acceptance) != (before.drafting, before.acceptance):
                self.meter.restart()

    def follow_loader(self) -> None:
        """Another model, or none: a question that waited is put to the one that is ready."""
        self.chat.change_greeting(self._greeting)
        info = self._loader.info
        if info is not None:
            self._plain = PlainReference(info.step_seconds.get(1))
            self.meter = ReplyMeter(self._plain)
            self._ask_when_ready()

    # Asking and answering

    async def take(self, text: str, pasted: tuple[str, ...] = ()) -> None:
        """A message the user has sent; one that can't be taken goes back into the box."""
        if not text.strip():
            self.prompt.hint("Type a message first")
        elif self.is_answering:
            self._refuse(text, "A reply is under way: Esc stops it")
        elif self._loader.phase == "down":
            self._refuse(text, "No model is loaded: /retry, or /model NAME")
        elif "@" in text:
            self.run_worker(self._attach_and_take(text, pasted), group="attach")
        else:
            await self._begin_answer(text.strip())

    async def _attach_and_take(self, text: str, pasted: tuple[str, ...]) -> None:
        """With the files it names; beside the screen, since a disk may be slow."""
        try:
            attached = await asyncio.to_thread(attach, text.strip(), self._tokens_left, pasted)
        except UsageError as error:
            self.prompt.give_back(text)
            await self.say(str(error), is_error=True)
            return
        if self.is_answering:
            self._refuse(text, "A reply is under way: Esc stops it")
        else:
            await self._begin_answer(attached.sent)

    @property
    def _tokens_left(self) -> int | None:
        info = self._loader.info
        return None if info is None else info.context_length - self.meter.context_tokens

    def _refuse(self, text: str, reason: str) -> None:
        self.prompt.give_back(text)
        self.prompt.hint(reason)

    async def _begin_answer(self, text: str) -> None:
        question = self.conversation.add("user", text)
        self.meter = ReplyMeter(self._plain)
        caption = "…" if self._loader.phase == "ready" else "waiting for the model …"
        answer = self._answer = Answer(AssistantTurn(caption=caption), self.meter)
        await self.chat.show(UserTurn(question), answer.widget)
        self.chat.anchor()
        self.run_worker(self._save_then_ask(answer), group="ask")

    async def _save_then_ask(self, answer: Answer) -> None:
        await self.save()
        answer.is_saved = True
        self._ask_when_ready()

    def _ask_when_ready(self) -> None:
        answer = self._answer
        if self._loader.phase == "ready" and answer and answer.is_saved and not answer.is_asked:
            answer.is_asked = True
            # Loading may have ended since the question was put.
            self.meter = answer.meter = ReplyMeter(self._plain)
            self._link.ask(self.conversation.messages(), self.options, self.post_message)

    @on(ReplyBegan)
    async def show_reply_began(self, event: ReplyBegan) -> None:
        self.meter.context_tokens = event.started.num_prompt_tokens
        self.post_message(self.Measured())
        if (dropped := event.started.num_dropped) and self._answer is not None:
            were = "message was" if dropped == 1 else f"{dropped} messages were"
            sentence = f"The context is full: the oldest {were} left out of what the model reads."
            await self.chat.notice(sentence, before=self._answer.widget)

    @on(ReplyGrew)
    async def show_growth(self, event: ReplyGrew) -> None:
        if self._answer is not None:
            await self._answer.grow(event.chunks, self.conversation)
            self.post_message(self.Measured())

    @on(ReplyEnded)
    async def end_answer(self, event: ReplyEnded) -> None:
        if isinstance(event.error, EngineCrashed):
            await self._bear_crash(event.error)
            return
        await self._finish_answer()
        if isinstance(event.error, PromptTooLong):
            self.conversation.refuse_question()
        if event.error is not None:
            await self.say(str(event.error), is_error=True)
        await self._enter_next()

    async def _bear_crash(self, error: EngineCrashed) -> None:
        """Has it loaded again. A question that got no word of an answer is asked once more."""
        answer = self._answer
        if answer is not None and answer.turn is None and not answer.is_second_try:
            answer.is_asked, answer.is_second_try = False, True
            answer.widget.show_caption("waiting for the model …")
        else:
            await self._finish_answer()
        await self.say(f"{sentence_of(error)} It is started again; the conversation is kept.", is_error=True)
        await self._enter_next()
        self.post_message(self.EngineLost())

    async def _finish_answer(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            await answer.finish()
            self._save_beside()

    def stop(self) -> None:
        """Ends the reply under way and keeps what is there."""
        if self._is_asked:
            self._link.stop()

    def action_stop(self) -> None:
        """A question not yet asked is withdrawn."""
        if self._is_asked:
            self._link.stop()
        elif self._answer is not None:
            self._answer.widget.remove()
            self._answer = None

    # Saving

    def _save_beside(self) -> None:
        if self._recorder.has_unsaved or not self.conversation.is_stored:
            self.run_worker(self.save(), group="save")

    async def save(self) -> None:
        """What can't be saved now is saved by a later try; the user is told once of each change."""
        conversation = self.conversation
        was_listed = conversation.id is not None
        try:
            await self._recorder.save(conversation, self._loader.request.model)
        except HistoryError as error:
            await self.tell_saving_fails(error)
            return
        if self._saving_fails and conversation.turns:
            self._saving_fails = False
            await self.say("The conversation is saved again.")
        if conversation.id is not None and not (was_listed and self.is_answering):
            self.post_message(self.Kept(self.conversation.id))

    async def tell_saving_fails(self, error: HistoryError) -> None:
        if not self._saving_fails:
            self._saving_fails = True
            await self.say(f"This conversation is not being saved. {error}", is_error=True)

    # Going to another conversation

    async def change_to(self, conversation: Conversation, message_id: int | None = None) -> None:
        """At once, or when the reply under way has ended: its last chunks must not land in another one."""
        if self._is_asked:
            self._next = _Wanted(conversation, message_id)
            self._link.stop()
        else:
            await self._enter(conversation, message_id)

    async def begin_another(self) -> None:
        """A new conversation, with the system prompt of this one."""
        await self.change_to(Conversation(self.conversation.system))

    async def show_message(self, message_id: int | None) -> None:
        """Scrolls to a message of this conversation."""
        turn = self.conversation.turn_stored_as(message_id)
        if turn and not self.chat.point_at(turn):
            await self.chat.show_turns(self.conversation.turns, turn)

    async def _enter_next(self) -> None:
        if self._next is not None:
            await self._enter(self._next.conversation, self._next.message_id)

    async def _enter(self, conversation: Conversation, message_id: int | None) -> None:
        await self.save()
        self._next = self._answer = None
        self.conversation = conversation
        self.meter = ReplyMeter(self._plain)
        self.post_message(self.Measured())
        if conversation.turns:
            await self.chat.show_turns(conversation.turns, conversation.turn_stored_as(message_id))
        else:
            await self.chat.greet(self._greeting)
        self.post_message(self.Kept(conversation.id))

    @on(Prompt.ScrolledChat)
    def scroll_chat(self, event: Prompt.ScrolledChat) -> None:
        self.chat.page(event.pages)
