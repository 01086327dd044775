"""The Textual app: holds the state, answers keys, and shows what the engine's link posts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Footer, Static

from medusa_chat import registry
from medusa_chat.app import dials
from medusa_chat.app.answer import Answer
from medusa_chat.app.chat_view import ChatView
from medusa_chat.app.commands import parse_command
from medusa_chat.app.conversation import Conversation, Recorder, load_conversation
from medusa_chat.app.engine_link import EngineLink
from medusa_chat.app.exporting import export_beside, export_to
from medusa_chat.app.help_screen import HelpScreen
from medusa_chat.app.load_bar import LoadBar
from medusa_chat.app.messages import (
    ConversationRead,
    EngineReady,
    LoadFailed,
    LoadProgressed,
    ReplyBegan,
    ReplyEnded,
    ReplyGrew,
)
from medusa_chat.app.meter import PlainReference, ReplyMeter
from medusa_chat.app.panel import Panel
from medusa_chat.app.prompt import Prompt
from medusa_chat.app.sidebar import Sidebar
from medusa_chat.app.strip import StatusStrip
from medusa_chat.app.turns import AssistantTurn, UserTurn
from medusa_chat.engine.process import Engine
from medusa_chat.errors import (
    DatabaseDamaged,
    EngineCrashed,
    HistoryError,
    MedusaError,
    PromptTooLong,
    UsageError,
)
from medusa_chat.history import History
from medusa_chat.printable import printable
from medusa_chat.records import EngineInfo, LoadProgress, LoadRequest, SamplingOptions
from medusa_chat.settings import Settings

_SECONDS_BETWEEN_SAVES = 0.7
_LOAD_CRASHES_BORNE = 1
_TOO_SMALL = "Please make the terminal larger."
_DARK, _LIGHT = "textual-dark", "textual-light"
_TEMPERATURE = Binding.Group("Temp", compact=True)

Phase = Literal["loading", "ready", "down"]


class MedusaApp(App[None], inherit_bindings=False):  # Quit comes last in the footer
    """One conversation with one model; neither is lost when the engine is."""

    CSS_PATH = "app.tcss"
    TITLE = "medusa-chat"
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-too-narrow"),
        (36, "-narrow"),
        (90, "-wide"),
        (130, "-roomy"),
    ]
    VERTICAL_BREAKPOINTS = [(0, "-too-short"), (10, "-short"), (36, "-tall")]  # noqa: RUF012
    # Priority: the prompt has the focus, and a text box has uses of its own for some of these keys.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", key_display="Esc"),
        Binding("f1", "help", "Help", key_display="F1", priority=True),
        Binding("f2", "temperature(-1)", "Cooler", key_display="F2/", priority=True, group=_TEMPERATURE),
        Binding("f3", "temperature(1)", "Warmer", key_display="F3", priority=True, group=_TEMPERATURE),
        Binding("f4", "top_p(-1)", "Lower top-p", priority=True, show=False),
        Binding("f5", "top_p(1)", "Raise top-p", priority=True, show=False),
        Binding("f6", "top_k(-1)", "Lower top-k", priority=True, show=False),
        Binding("f7", "top_k(1)", "Raise top-k", priority=True, show=False),
        Binding("f8", "acceptance", "Accept", key_display="F8", priority=True),
        Binding("f9", "drafting", "Draft", key_display="F9", priority=True),
        Binding("ctrl+n", "new", "New", priority=True),
        Binding("ctrl+o", "conversations", "Chats", priority=True),
        Binding("ctrl+t", "light_or_dark", "Theme", priority=True),
        Binding("ctrl+q", "quit", "Quit", priority=True),
        Binding("ctrl+c", "help_quit", show=False, system=True),
    ]

    def __init__(
        self,
        settings: Settings,
        load_request: LoadRequest,
        engine: Engine,
        history: History,
        resume: bool = False,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._request = load_request
        self._working_request: LoadRequest | None = None
        self._history = history
        self._recorder = Recorder(history)
        self._saving_fails = False
        self._resume = resume
        self._link = EngineLink(engine, self.post_message)
        self._phase: Phase = "loading"
        self._load_crashes = 0
        self._info: EngineInfo | None = None
        self._options: SamplingOptions = settings.sampling
        self._conversation = Conversation(settings.system)
        self._answer: Answer | None = None
        self._plain = PlainReference()
        self._meter = ReplyMeter(self._plain)
        # To be entered when the reply under way has ended, and which message of it to show.
        self._next: tuple[Conversation, int | None] | None = None
        self.sidebar = Sidebar(history)
        self.chat = ChatView()
        self.load_bar = LoadBar()
        self.strip = StatusStrip()
        self.prompt = Prompt(
            placeholder="Ask something. Enter sends, Ctrl+J begins a new line.", highlight_cursor_line=False
        )
        self.panel = Panel()

    @property
    def is_ready(self) -> bool:
        """A model is loaded."""
        return self._phase == "ready"

    @property
    def is_answering(self) -> bool:
        """A message has been sent and its reply has not ended."""
        return self._answer is not None

    # The screen

    def compose(self) -> ComposeResult:
        with Horizontal(id="room"):
            yield self.sidebar
            with Vertical(id="talk"):
                yield self.chat
                yield self.load_bar
                yield self.strip
                yield self.prompt
            yield self.panel
        yield Footer(show_command_palette=False)
        yield Static(_TOO_SMALL, id="too-small", markup=False)

    async def on_mount(self) -> None:
        self.prompt.focus()
        await self.chat.greet(self._greeting)
        if self._settings.theme in self.available_themes:
            self.theme = self._settings.theme
        else:
            await self._say(f"There is no theme {self._settings.theme!r}. Ctrl+P lists them.", is_error=True)
        self.run_worker(self._link.run(), group="link")
        self._show_options()
        self._show_figures()
        # Only now, so that the engine's start doesn't compete with the first picture.
        self.call_after_refresh(self._load, self._request)
        self.set_interval(_SECONDS_BETWEEN_SAVES, self._save_beside)
        self.run_worker(self._open_history(), group="resume")

    async def on_unmount(self) -> None:
        await self._save()

    @property
    def _greeting(self) -> str:
        return {
            "loading": "The model is being loaded. Your first message waits for it.",
            "ready": "Ask something. Ctrl+O opens earlier conversations, /help shows keys and commands.",
            "down": "No model is loaded.",
        }[self._phase]

    async def _say(self, text: str, *, is_error: bool = False) -> None:
        await self.chat.notice(text, is_error=is_error)

    def _show_options(self) -> None:
        self.panel.show_options(self._options)
        self.strip.show(self._meter, self._options)

    def _show_figures(self) -> None:
        self.panel.show_reply(self._meter, self._options, self._info)
        self.strip.show(self._meter, self._options)

    # Loading

    def _load(self, request: LoadRequest) -> None:
        self._request = request
        self._phase = "loading"
        self._info = None
        self.panel.show_model(request, None)
        self._show_progress(LoadProgress(f"Loading {request.model}"))
        self._link.load(request)

    def _show_progress(self, progress: LoadProgress) -> None:
        self.load_bar.display = True
        self.load_bar.show(progress)

    @on(LoadProgressed)
    def show_progress(self, event: LoadProgressed) -> None:
        self._show_progress(event.progress)

    @on(EngineReady)
    async def be_ready(self, event: EngineReady) -> None:
        if event.request != self._request:
            return  # another model has been asked for since
        self._phase = "ready"
        self._info = event.info
        self._load_crashes = 0
        self._working_request = event.request
        self._plain = PlainReference(event.info.step_seconds.get(1))
        self._meter = ReplyMeter(self._plain)
        self.load_bar.display = False
        self.panel.show_model(event.request, event.info)
        self._show_figures()
        self.chat.change_greeting(self._greeting)
        for remark in event.info.remarks:
            await self._say(remark)
        self._ask_when_ready()

    @on(LoadFailed)
    async def bear_failed_load(self, event: LoadFailed) -> None:
        if event.request != self._request:
            return
        if isinstance(event.error, EngineCrashed) and self._load_crashes < _LOAD_CRASHES_BORNE:
            self._load_crashes += 1
            await self._say(f"{_sentence(event.error)} It is started once more.", is_error=True)
            self._load(event.request)
        elif self._working_request not in (None, event.request):
            assert self._working_request is not None
            await self._say(
                f"{_sentence(event.error)} Going back to {self._working_request.model}.", is_error=True
            )
            self._load_crashes = 0
            self._load(self._working_request)
        else:
            self._phase = "down"
            self.load_bar.display = False
            self.chat.change_greeting(self._greeting)
            await self._say(
                f"{_sentence(event.error)} /retry tries again, /model NAME loads another model.",
                is_error=True,
            )

    # Asking and answering

    @on(Prompt.Sent)
    async def take_message(self, event: Prompt.Sent) -> None:
        text = printable(event.text)
        if not text.strip():
            self.prompt.hint("Type a message first")
        elif text.startswith("/"):
            await self._obey(text)
        elif self._answer is not None:
            self._refuse(text, "A reply is under way: Esc stops it")
        elif self._phase == "down":
            self._refuse(text, "No model is loaded: /retry, or /model NAME")
        else:
            await self._begin_answer(text.strip())

    def _refuse(self, text: str, reason: str) -> None:
        self.prompt.give_back(text)
        self.prompt.hint(reason)

    async def _begin_answer(self, text: str) -> None:
        question = self._conversation.add("user", text)
        self._meter = ReplyMeter(self._plain)
        caption = "…" if self._phase == "ready" else "waiting for the model …"
        answer = self._answer = Answer(AssistantTurn(caption=caption), self._meter)
        await self.chat.show(UserTurn(question), answer.widget)
        self.chat.anchor()
        self.run_worker(self._save_then_ask(answer), group="ask")

    async def _save_then_ask(self, answer: Answer) -> None:
        await self._save()
        answer.is_saved = True
        self._ask_when_ready()

    def _ask_when_ready(self) -> None:
        answer = self._answer
        if self._phase == "ready" and answer is not None and answer.is_saved and not answer.is_asked:
            answer.is_asked = True
            # Loading may have ended since the question was put.
            self._meter = answer.meter = ReplyMeter(self._plain)
            self._link.ask(self._conversation.messages(), self._options)

    @on(ReplyBegan)
    async def show_reply_began(self, event: ReplyBegan) -> None:
        self._meter.context_tokens = event.started.num_prompt_tokens
        self._show_figures()
        if (dropped := event.started.num_dropped) and self._answer is not None:
            were = "message was" if dropped == 1 else f"{dropped} messages were"
            sentence = f"The context is full: the oldest {were} left out of what the model reads."
            await self.chat.notice(sentence, before=self._answer.widget)

    @on(ReplyGrew)
    async def show_growth(self, event: ReplyGrew) -> None:
        answer = self._answer
        if answer is None:
            return
        text = "".join(chunk.text for chunk in event.chunks)
        for chunk in event.chunks:
            answer.meter.add(chunk.step)
            answer.finish_reason = chunk.finish_reason or answer.finish_reason
        if text:
            if answer.turn is None:
                answer.turn = self._conversation.add("assistant", "", partial=True)
                answer.widget.turn = answer.turn
            answer.turn.content += printable(text)
            await answer.widget.feed(text)
        self._show_figures()

    @on(ReplyEnded)
    async def end_answer(self, event: ReplyEnded) -> None:
        if isinstance(event.error, EngineCrashed):
            await self._bear_crash(event.error)
            return
        await self._finish_answer()
        if isinstance(event.error, PromptTooLong):
            self._conversation.refuse_question()
        if event.error is not None:
            await self._say(str(event.error), is_error=True)
        if self._next is not None:
            await self._enter(*self._next)

    async def _bear_crash(self, error: EngineCrashed) -> None:
        """Loads again. A question that got no word of an answer is asked once more."""
        answer = self._answer
        if answer is not None and answer.turn is None and not answer.is_second_try:
            answer.is_asked, answer.is_second_try = False, True
            answer.widget.show_caption("waiting for the model …")
        else:
            await self._finish_answer()
        await self._say(f"{_sentence(error)} It is started again; the conversation is kept.", is_error=True)
        if self._next is not None:
            await self._enter(*self._next)
        self._load(self._request)

    async def _finish_answer(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            await self._finish(answer)
            self._save_beside()

    async def _finish(self, answer: Answer) -> None:
        if answer.turn is not None:
            answer.turn.partial, answer.turn.caption = answer.was_cut, answer.caption()
            await answer.widget.finish(answer.turn.content, answer.turn.caption)
        elif answer.finish_reason is None:
            await answer.widget.remove()  # the notice of the error says it all
        else:
            answer.widget.show_caption(f"no text · {answer.caption()}")

    # Saving

    def _save_beside(self) -> None:
        if self._recorder.has_unsaved or not self._conversation.is_stored:
            self.run_worker(self._save(), group="save")

    async def _save(self) -> None:
        """What can't be saved now is saved by a later try; the user is told once of each change."""
        conversation = self._conversation
        was_listed = conversation.id is not None
        try:
            await self._recorder.save(conversation, self._request.model)
        except HistoryError as error:
            await self._tell_saving_fails(error)
            return
        if self._saving_fails and conversation.turns:
            self._saving_fails = False
            await self._say("The conversation is saved again.")
        if conversation.id is not None and not (was_listed and self.is_answering):
            self.sidebar.mark_open(self._conversation.id)

    async def _tell_saving_fails(self, error: HistoryError) -> None:
        if not self._saving_fails:
            self._saving_fails = True
            await self._say(f"This conversation is not being saved. {error}", is_error=True)

    # Conversations of earlier

    async def _open_history(self) -> None:
        """Goes on with the latest conversation, if wanted, and finds out at once whether any can be saved."""
        if self._resume:
            await self._continue_latest()
        try:
            await asyncio.to_thread(self._history.purge)
        except DatabaseDamaged as error:
            await self._say(str(error), is_error=True)
        except HistoryError as error:
            await self._tell_saving_fails(error)

    async def _continue_latest(self) -> None:
        try:
            conversation = await asyncio.to_thread(load_conversation, self._history, None)
        except HistoryError as error:
            await self._say(str(error), is_error=True)
            return
        if conversation is None:
            await self._say("There is no conversation to continue yet.")
        elif not self._conversation.turns:  # else the user was faster
            await self._enter(conversation)

    @on(Sidebar.Opened)
    async def open_conversation(self, event: Sidebar.Opened) -> None:
        if event.conversation_id != self._conversation.id:
            self._read_conversation(event.conversation_id, event.message_id)
        elif (turn := self._conversation.turn_stored_as(event.message_id)) and not self.chat.point_at(turn):
            await self.chat.show_turns(self._conversation.turns, turn)

    @work(group="open", exclusive=True)
    async def _read_conversation(self, conversation_id: int, message_id: int | None) -> None:
        try:
            conversation = await asyncio.to_thread(load_conversation, self._history, conversation_id)
        except HistoryError as error:
            self.sidebar.post_message(Sidebar.Failed(error))
            return
        if conversation is not None:
            self.post_message(ConversationRead(conversation, message_id))

    @on(ConversationRead)
    async def show_conversation(self, event: ConversationRead) -> None:
        await self._change_to(event.conversation, event.message_id)

    @on(Sidebar.Deleted)
    async def leave_deleted(self, event: Sidebar.Deleted) -> None:
        if event.record.id == self._conversation.id:
            self._conversation.is_deleted = True
            await self.action_new()

    @on(Sidebar.Restored)
    def come_back(self, event: Sidebar.Restored) -> None:
        if not self._conversation.turns:
            self.post_message(Sidebar.Opened(event.record.id, None))

    @on(Sidebar.Failed)
    async def bear_failed_history(self, event: Sidebar.Failed) -> None:
        if isinstance(event.error, DatabaseDamaged):
            self._conversation.forget_rows()
            await self._say(str(event.error), is_error=True)

    async def _change_to(self, conversation: Conversation, message_id: int | None = None) -> None:
        """At once, or when the reply under way has ended: its last chunks must not land in another one."""
        if self._answer is not None and self._answer.is_asked:
            self._next = conversation, message_id
            self._link.stop()
        else:
            await self._enter(conversation, message_id)

    async def _enter(self, conversation: Conversation, message_id: int | None = None) -> None:
        await self._save()
        self._next = self._answer = None
        self._conversation = conversation
        self._meter = ReplyMeter(self._plain)
        self._show_figures()
        if conversation.turns:
            await self.chat.show_turns(conversation.turns, conversation.turn_stored_as(message_id))
        else:
            await self.chat.greet(self._greeting)
        self.sidebar.mark_open(conversation.id)

    # Keys

    def action_stop(self) -> None:
        """Ends the reply under way and keeps what is there; a question not yet asked is withdrawn."""
        if self._answer is None:
            return
        if self._answer.is_asked:
            self._link.stop()
        else:
            self._answer.widget.remove()
            self._answer = None

    def action_help(self) -> None:
        self.push_screen(HelpScreen())

    def action_temperature(self, notches: int) -> None:
        self._use(dials.turn_temperature(self._options, notches))

    def action_top_p(self, notches: int) -> None:
        self._use(dials.turn_top_p(self._options, notches))

    def action_top_k(self, notches: int) -> None:
        self._use(dials.turn_top_k(self._options, notches))

    def action_acceptance(self) -> None:
        self._use(dials.switch_acceptance(self._options))

    def action_drafting(self) -> None:
        self._use(dials.switch_drafting(self._options))

    def action_light_or_dark(self) -> None:
        self.theme = _LIGHT if self.current_theme.dark else _DARK

    async def action_new(self) -> None:
        await self._change_to(Conversation(self._conversation.system))

    def action_conversations(self) -> None:
        self.sidebar.toggle()

    def _use(self, options: SamplingOptions) -> None:
        """From now on, the next step of a reply under way included."""
        before, self._options = self._options, options
        if self._answer is not None and self._answer.is_asked:
            self._link.set_options(options)
            if (options.drafting, options.acceptance) != (before.drafting, before.acceptance):
                self._meter.restart()
        self._show_options()
        self._show_figures()

    @on(Prompt.ScrolledChat)
    def scroll_chat(self, event: Prompt.ScrolledChat) -> None:
        self.chat.page(event.pages)

    # Commands

    async def _obey(self, line: str) -> None:
        """A command that can't be followed stays in the box, to be corrected."""
        try:
            command, argument = parse_command(line)
            obey: Callable[[str], object] = getattr(self, f"command_{command.name}")
            result = obey(argument)
            if asyncio.iscoroutine(result):
                await result
        except MedusaError as error:
            self.prompt.give_back(line)
            await self._say(str(error), is_error=True)

    def command_model(self, name: str) -> None:
        if not name:
            raise UsageError(f"/model takes a name: {', '.join(registry.load_registry())}; or a folder.")
        registry.resolve(name)  # a slip of the pen must not cost the model that is loaded
        if self._answer is not None and self._answer.is_asked:
            self._link.stop()
        self._load_crashes = 0
        self._load(replace(self._request, model=name, heads=None))

    async def command_system(self, text: str) -> None:
        if text:
            self._conversation.system = text
        system = self._conversation.system
        await self._say(
            f"System prompt: {system}" if system else "There is no system prompt. /system TEXT sets one."
        )

    def command_set(self, argument: str) -> None:
        name, value = [*argument.split(), "", ""][:2]
        if not value:
            raise UsageError("/set takes an option and a value, such as /set temperature 0.7.")
        self._use(dials.set_option(self._options, name, value))

    def command_plain(self, _: str) -> None:
        self.action_drafting()

    def command_search(self, text: str) -> None:
        self.sidebar.search_for(text)

    async def command_rename(self, title: str) -> None:
        if not title:
            raise UsageError("/rename takes a title.")
        await asyncio.to_thread(self._history.rename, self._stored_id(), title)
        self.sidebar.refresh_rows()

    async def command_export(self, target: str) -> None:
        await self._save()
        if target:
            path = await asyncio.to_thread(export_to, self._history, self._stored_id(), target)
        else:
            path = await asyncio.to_thread(export_beside, self._history, self._stored_id(), "markdown")
        await self._say(f"Exported to {path}")

    def _stored_id(self) -> int:
        if self._conversation.id is None:
            raise UsageError("There is nothing in this conversation yet.")
        return self._conversation.id

    async def command_new(self, _: str) -> None:
        await self.action_new()

    def command_retry(self, _: str) -> None:
        if self._phase != "down":
            raise UsageError("The model is loaded already." if self._phase == "ready" else "It is loading.")
        self._load_crashes = 0
        self._load(self._request)

    def command_help(self, _: str) -> None:
        self.action_help()

    async def command_quit(self, _: str) -> None:
        await self.action_quit()


def _sentence(error: MedusaError) -> str:
    """The error's text, ended so that another sentence can follow. A crash's last words often end anyhow."""
    text = str(error)
    return text if text.endswith((".", "!", "?")) else f"{text}."
