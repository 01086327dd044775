"""One conversation and the reply under way: asked for, grown, ended, saved, left for another."""

from __future__ import annotations

import time
from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.reactive import var

from medusa_chat.app.answer import Answer
from medusa_chat.app.chat_view import ChatView
from medusa_chat.app.conversation import Conversation, Turn
from medusa_chat.app.dials import Dials
from medusa_chat.app.engine_link import EngineLink
from medusa_chat.app.growing import GrowingReply
from medusa_chat.app.keeper import Keeper
from medusa_chat.app.loader import Loader
from medusa_chat.app.messages import ReplyBegan, ReplyEnded, ReplyGrew
from medusa_chat.app.meter import PlainReference, ReplyMeter
from medusa_chat.app.prompt import Prompt
from medusa_chat.app.sentences import left_out
from medusa_chat.app.stored_options import options_from_json, options_to_json
from medusa_chat.app.strip import StatusStrip
from medusa_chat.errors import EngineCrashed, PromptTooLong
from medusa_chat.history import History
from medusa_chat.records import SamplingOptions
from medusa_chat.settings import Settings

_SECONDS_BETWEEN_SAVES = 0.7
_QUESTIONS_REMEMBERED = 200
_SECONDS_BETWEEN_FIGURES = 0.25  # drawing them costs half of what the text does
_WAITING, _UNDER_WAY = "waiting for the model …", "…"  # below a reply that has no text yet


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A conversation to go to, and the row of the message in it to show."""

    conversation: Conversation
    message_id: int | None


class Exchange(Vertical):
    """The chat and the box below it. A question put while the model is loaded waits for it."""

    class Measured(Message):
        """The figures of the reply under way have changed."""

    class Kept(Message):
        """The conversation on the screen is another one, or has been saved. id: None where it has no row."""

        def __init__(self, conversation_id: int | None) -> None:
            super().__init__()
            self.conversation_id = conversation_id

    class Began(Message):
        """An answer is wanted."""

    class Ended(Message):
        """It is there, or as much of it as comes. question: what it is an answer to."""

        def __init__(self, question: str) -> None:
            super().__init__()
            self.question = question

    _answer: var[Answer | None] = var(None, bindings=True)

    def __init__(
        self, history: History, link: EngineLink, loader: Loader, dials: Dials, settings: Settings
    ) -> None:
        super().__init__()
        self.conversation = Conversation(settings.system)
        self.options = self._defaults = settings.sampling
        self.chat = ChatView(self._place_of)
        self.strip = StatusStrip()
        self.prompt = Prompt(
            lambda: dials.values, placeholder="Ask something. Enter sends, Ctrl+J begins a new line."
        )
        self._link = link
        self._loader = loader
        self.keeper = Keeper(history, self.say)
        self._plain = PlainReference()
        self.meter = ReplyMeter(self._plain)
        self._measured_at = 0.0
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
        self.run_worker(self._recall(), group="recall")

    async def _recall(self) -> None:
        """What was asked before, for Up, and what was typed last and not sent."""
        self.prompt.remember(await self.keeper.questions(_QUESTIONS_REMEMBERED))
        draft = await self.keeper.draft(None)
        if not (self.conversation.turns or self.prompt.text):
            self.prompt.exchange(draft)

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
        self.conversation.options_json = options_to_json(options, self._defaults)
        if self._is_asked:
            self._link.set_options(options)
            if (options.drafting, options.acceptance) != (before.drafting, before.acceptance):
                self.meter.restart()

    @on(Loader.Changed)
    def follow_loader(self) -> None:
        """Another model, or none: a question that waited is put to the one that is ready."""
        self.chat.change_greeting(self._greeting)
        info = self._loader.info
        if info is not None:
            self._plain = PlainReference(info.step_seconds)
            self.meter = ReplyMeter(self._plain)
            self._ask_when_ready()

    # Answering

    def _why_not(self) -> str | None:
        """Why nothing can be asked now."""
        if self.is_answering:
            return "A reply is under way: Esc stops it"
        if self._loader.phase == "down":
            return "No model is loaded: /retry, or /model"
        return None

    async def _begin_answer(self, begun: Turn | None = None) -> None:
        """begun: the reply to go on with; None: a new one."""
        self.meter = ReplyMeter(self._plain)
        caption = _UNDER_WAY if self._loader.phase == "ready" else _WAITING
        reply = GrowingReply(self.conversation, self.meter, begun)
        answer = self._answer = Answer(self.chat.new_reply(caption), reply)
        await self.chat.show(answer.widget)
        answer.begin()
        self.chat.anchor()
        self.post_message(self.Began())
        self.run_worker(self._save_then_ask(answer), group="ask")

    async def _save_then_ask(self, answer: Answer) -> None:
        if self.conversation.id is None:
            await self.keeper.keep_draft(None, "")  # it has been sent, and now gets a row
        await self.save()
        answer.is_saved = True
        self._ask_when_ready()

    def _ask_when_ready(self) -> None:
        answer = self._answer
        if self._loader.phase == "ready" and answer and answer.is_saved and not answer.is_asked:
            answer.is_asked = True
            if answer.reply.turn is None:
                answer.widget.show_caption(_UNDER_WAY)
            # Loading may have ended since the question was put.
            self.meter = answer.reply.meter = ReplyMeter(self._plain)
            self._link.ask(self.conversation.messages(), self.options, self.post_message)

    @on(ReplyBegan)
    async def show_reply_began(self, event: ReplyBegan) -> None:
        self.meter.context_tokens = event.started.num_prompt_tokens
        self.post_message(self.Measured())
        if (dropped := event.started.num_dropped) and self._answer is not None:
            sentence = left_out(dropped, self.options.context)
            await self.chat.notice(sentence, before=self._answer.widget)

    @on(ReplyGrew)
    def show_growth(self, event: ReplyGrew) -> None:
        if self._answer is not None:
            self._answer.grow(event.chunks)
            if time.monotonic() - self._measured_at >= _SECONDS_BETWEEN_FIGURES:
                self._measured_at = time.monotonic()
                self.post_message(self.Measured())

    @on(ReplyEnded)
    async def end_answer(self, event: ReplyEnded) -> None:
        if isinstance(event.error, EngineCrashed):
            await self._bear_crash()
            return
        await self._finish_answer()
        if isinstance(event.error, PromptTooLong):
            self.conversation.refuse_question()
        if event.error is not None:
            await self.say(str(event.error), is_error=True)
        await self._enter_next()

    async def _bear_crash(self) -> None:
        """The loader has it started again. A question that got no word of an answer is asked once more."""
        answer = self._answer
        if answer is not None and answer.reply.turn is None and not answer.is_second_try:
            answer.is_asked, answer.is_second_try = False, True
            answer.widget.show_caption(_WAITING)
        else:
            await self._finish_answer()
        await self._enter_next()

    async def _finish_answer(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            await answer.finish()
            if answer.reply.turn is not None:
                answer.widget.show_place(self._place_of(answer.reply.turn))
            self._save_beside()
            self.post_message(self.Measured())
            asked = [turn.content for turn in self.conversation.turns if turn.role == "user"]
            self.post_message(self.Ended(asked[-1] if asked else ""))

    def stop(self) -> None:
        """Ends the reply under way and keeps what is there."""
        if self._is_asked:
            self._link.stop()

    def _place_of(self, turn: Turn) -> str:
        others = self.conversation.alternatives(turn)
        return f"{others.index(turn) + 1}/{len(others)}" if len(others) > 1 else ""

    # Saving

    def _save_beside(self) -> None:
        if self.keeper.is_behind(self.conversation):
            self.run_worker(self.save(), group="save")

    async def save(self) -> None:
        """Puts on the disk what isn't there yet."""
        conversation = self.conversation
        was_listed = conversation.id is not None
        is_saved = await self.keeper.save(conversation, self._loader.request.model)
        if is_saved and conversation.id is not None and not (was_listed and self.is_answering):
            self.post_message(self.Kept(self.conversation.id))

    # Going to another conversation

    async def change_to(self, conversation: Conversation, message_id: int | None = None) -> None:
        """At once, or when the reply under way has ended: its last chunks must not land in another one."""
        if self._is_asked:
            self._next = _Wanted(conversation, message_id)
            self._link.stop()
        else:
            await self._enter(conversation, message_id)

    async def begin_another(self) -> None:
        """A new conversation, with the system prompt and the options of this one."""
        await self.change_to(Conversation(self.conversation.system, self.conversation.options_json))

    async def show_message(self, message_id: int | None) -> None:
        """Scrolls to a message of this conversation."""
        turn = self.conversation.turn_stored_as(message_id)
        if turn and turn not in self.conversation.turns:
            await self.change_to(self.conversation, message_id)  # a reply under way is of this branch
        elif turn and not self.chat.point_at(turn):
            await self.chat.show_turns(self.conversation.turns, turn)

    async def _enter_next(self) -> None:
        if self._next is not None:
            await self._enter(self._next.conversation, self._next.message_id)

    async def _enter(self, conversation: Conversation, message_id: int | None) -> None:
        await self.save()
        left, draft = self.conversation, await self.keeper.draft(conversation.id)
        unsent = self.prompt.draft if conversation is left else self.prompt.exchange(draft)
        self.conversation = conversation
        self._next = self._answer = None
        self.options, remark = options_from_json(conversation.options_json or "{}", self._defaults)
        self.meter = ReplyMeter(self._plain)
        self.post_message(self.Measured())
        if found := conversation.turn_stored_as(message_id):
            conversation.choose(found)
        if conversation.turns:
            await self.chat.show_turns(conversation.turns, found)
        else:
            await self.chat.greet(self._greeting)
        if remark is not None:
            await self.say(remark)
        await self.keeper.keep_draft(left.id, unsent)
        self.post_message(self.Kept(conversation.id))

    @on(Prompt.Drafted)
    def keep_draft(self, event: Prompt.Drafted) -> None:
        keeping = self.keeper.keep_draft(self.conversation.id, event.text)
        self.run_worker(keeping, group="draft", exclusive=True)
