"""The chat for screen readers: lines on standard output, no boxes, no spinners, nothing drawn twice."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence

from medusa_chat.app.conversation import Conversation, Turn, load_conversation
from medusa_chat.app.dial import Setup
from medusa_chat.app.dials import Dials
from medusa_chat.app.growing import GrowingReply
from medusa_chat.app.keeper import Keeper
from medusa_chat.app.linear_commands import LinearCommands
from medusa_chat.app.meter import PlainReference, ReplyMeter
from medusa_chat.app.plain_letters import use_plain_letters
from medusa_chat.app.sentences import left_out, sentence_of
from medusa_chat.app.signals import leave_on_signals, signals_in_a_reply
from medusa_chat.app.spoken_reply import SpokenReply
from medusa_chat.app.typed_letters import bear_all_letters
from medusa_chat.engine.process import WORKER_COMMAND, EngineProcess
from medusa_chat.errors import EngineCrashed, HistoryError, MedusaError, PromptTooLong
from medusa_chat.history import History
from medusa_chat.printable import printable
from medusa_chat.records import (
    Chunk,
    EngineInfo,
    LoadProgress,
    LoadRequest,
    Message,
    ReplyStarted,
)
from medusa_chat.settings import Settings

_PROMPT = "You: "
_SECONDS_BETWEEN_SAVES = 0.7
_SECONDS_BETWEEN_PROGRESS = 5.0


def run_linear(
    settings: Settings,
    request: LoadRequest,
    resume: bool = False,
    engine_command: Sequence[str] = WORKER_COMMAND,
) -> int:
    """Talks until the user leaves, and returns the exit status."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # gives input() its editing and its history

    use_plain_letters(sys.stdout)
    bear_all_letters(sys.stdin)
    history = History()
    engine = EngineProcess(engine_command)
    with asyncio.Runner() as runner:
        chat = LinearChat(settings, request, history, engine, runner)
        leave_on_signals()
        try:
            return chat.run(resume)
        finally:
            runner.run(chat.save())
            runner.run(engine.close())
            history.close()


class LinearChat:
    """One conversation at a time, in lines. The loop runs while something is awaited, not while one types."""

    def __init__(
        self,
        settings: Settings,
        request: LoadRequest,
        history: History,
        engine: EngineProcess,
        runner: asyncio.Runner,
    ) -> None:
        self.options = settings.sampling
        self.dials = Dials(settings.presets)
        self.defaults = Setup(settings.sampling, settings.system, settings.theme)
        self.request = request
        self.history = history
        self.conversation = Conversation(settings.system)
        self.is_left = False
        self._status = 0
        self._engine = engine
        self._runner = runner
        self._keeper = Keeper(history, self._say_later)
        self._commands = LinearCommands(self)
        self._plain = PlainReference()
        self._is_loaded = False

    def run(self, resume: bool) -> int:
        """Until the user leaves."""
        if resume:
            self._resume()
        self.load(self.request)
        while not self.is_left and (text := self._read()) is not None:
            if text.startswith("/"):
                self._obey(text)
            elif text.strip():
                self.ask(text.strip())
        return self._status

    @property
    def setup(self) -> Setup:
        """All that can be set, as it is now."""
        return Setup(self.options, self.conversation.system, self.defaults.theme)

    def set_up(self, setup: Setup) -> None:
        """From the next answer on."""
        self.options, self.conversation.system = setup.options, setup.system

    def say(self, text: str) -> None:
        """One line. Control characters in it stay off the terminal."""
        print(printable(text), flush=True)

    def complain(self, error: MedusaError) -> None:
        self.say(f"Error: {sentence_of(error)}")

    def _read(self) -> str | None:
        """The next line; None when the user leaves, by Ctrl+D or by Ctrl+C twice."""
        for is_second in (False, True):
            try:
                return printable(input(_PROMPT))
            except EOFError:
                break
            except KeyboardInterrupt:
                self.say("" if is_second else "\nCtrl+C again leaves, and so does Ctrl+D.")
        return None

    def _obey(self, line: str) -> None:
        try:
            self._commands.obey(line)
        except MedusaError as error:
            self.complain(error)

    # Conversations

    def _resume(self) -> None:
        try:
            conversation = load_conversation(self.history, None)
        except HistoryError as error:
            self.complain(error)
            return
        if conversation is None:
            self.say("There is no conversation to continue yet.")
            return
        self.conversation = conversation
        self.say(f"Going on after {len(conversation.turns)} messages. The last ones:")
        for turn in conversation.turns[-2:]:
            self.say(f"{'You' if turn.role == 'user' else 'Answer'}: {turn.content}")
        if conversation.turns and conversation.turns[-1].partial:
            self.say("This answer was not finished.")

    def begin(self, conversation: Conversation) -> None:
        """Leaves the conversation, saved, for another one."""
        self._runner.run(self.save())
        self.conversation = conversation

    async def save(self) -> None:
        """Puts on the disk what isn't there yet."""
        await self._keeper.save(self.conversation, self.request.model)

    async def _say_later(self, text: str, *, is_error: bool = False) -> None:
        self.say(f"Error: {text}" if is_error else text)

    def save_now(self) -> None:
        self._runner.run(self.save())

    # The model

    def load(self, request: LoadRequest) -> None:
        """Loads a model, or goes back to the one before when that fails."""
        before, self.request = self.request, request
        was_loaded, self._is_loaded = self._is_loaded, False
        try:
            self._runner.run(self._load())
        except KeyboardInterrupt:
            self.say("\nNo model is loaded. /retry loads it.")
        except MedusaError as error:
            self.complain(error)
            if was_loaded and before != request:
                self.load(before)
            else:
                self.say("/retry tries again, /model NAME loads another model.")

    async def _load(self) -> None:
        told = -_SECONDS_BETWEEN_PROGRESS
        async for item in self._engine.load(self.request):
            match item:
                case LoadProgress(message) if time.monotonic() - told >= _SECONDS_BETWEEN_PROGRESS:
                    told = time.monotonic()
                    self.say(f"{message}.")
                case EngineInfo():
                    self._plain = PlainReference(item.step_seconds)
                    for remark in item.remarks:
                        self.say(remark)
        self._is_loaded = True
        self.say(f"{self.request.model} is loaded. /help lists commands.")

    # Asking and answering

    def ask(self, text: str) -> None:
        """A message of the user's."""
        if self._is_loaded:
            self.conversation.add("user", text)
        self.answer()

    def answer(self, begun: Turn | None = None, *, is_second_try: bool = False) -> None:
        """Answers the last question, or goes on with a reply."""
        if not self._is_loaded:
            self.say("No model is loaded: /retry, or /model NAME.")
            return
        try:
            self._runner.run(self._answer(begun))
        except asyncio.CancelledError:
            self.is_left = True
        except EngineCrashed as error:
            self.complain(error)
            self.say("It is started again; the conversation is kept.")
            self.load(self.request)
            # Nobody waits for its end while one types: the question may have met one long dead.
            if self._is_loaded and not is_second_try and self.conversation.turns[-1].role == "user":
                self.answer(is_second_try=True)
        except MedusaError as error:
            if isinstance(error, PromptTooLong):
                self.conversation.refuse_question()
            self.complain(error)

    async def _answer(self, begun: Turn | None) -> None:
        await self.save()
        messages = self.conversation.messages()
        reply = SpokenReply(GrowingReply(self.conversation, ReplyMeter(self._plain), begun), self.say)
        task = asyncio.current_task()
        assert task is not None

        def leave(number: int) -> None:
            self._status = 128 + number
            task.cancel()

        with signals_in_a_reply(stop=self._engine.cancel, leave=leave):
            try:
                await self._read_reply(reply, messages)
            finally:
                reply.end()
                await self.save()

    async def _read_reply(self, reply: SpokenReply, messages: Sequence[Message]) -> None:
        saved = time.monotonic()
        async for item in self._engine.reply(messages, self.options):
            match item:
                case ReplyStarted(num_dropped=dropped) if dropped:
                    self.say(left_out(dropped, self.options.context))
                case Chunk():
                    reply.grow(item)
            if time.monotonic() - saved >= _SECONDS_BETWEEN_SAVES:
                await self.save()
                saved = time.monotonic()
