"""The Textual app: the rooms of the screen, the keys that work everywhere, and what passes between rooms."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widgets import Static

from medusa_chat.app import dial_table, keys
from medusa_chat.app.chat_view import ChatView
from medusa_chat.app.commands import COMMANDS
from medusa_chat.app.conversation import load_conversation
from medusa_chat.app.dial import Setup
from medusa_chat.app.dials import Dials
from medusa_chat.app.engine_link import EngineLink
from medusa_chat.app.help_screen import HelpScreen
from medusa_chat.app.key_line import KeyLine
from medusa_chat.app.keymap import checked_keymap
from medusa_chat.app.keys import bindings
from medusa_chat.app.loader import Loader
from medusa_chat.app.messages import ConversationRead, EngineChanged
from medusa_chat.app.models.fetching import ToFetch, fetch_nothing
from medusa_chat.app.notifying import Notifier
from medusa_chat.app.panel import Panel
from medusa_chat.app.part_lines import warm_up
from medusa_chat.app.prompt import Prompt
from medusa_chat.app.settings_screen import SettingsScreen
from medusa_chat.app.sidebar import Sidebar
from medusa_chat.app.slash import SlashCommands
from medusa_chat.app.talk import Talk
from medusa_chat.engine.process import Engine
from medusa_chat.errors import DatabaseDamaged, HistoryError, MedusaError
from medusa_chat.history import History
from medusa_chat.printable import printable
from medusa_chat.records import LoadRequest, SamplingOptions
from medusa_chat.settings import Settings

if TYPE_CHECKING:
    from medusa_chat.app.models.desk import ModelDesk
    from medusa_chat.app.models.screen import ModelsScreen

_TOO_SMALL = "Please make the terminal larger."
_SECONDS_TO_DRAW = 0.15
_OF_TEXTUAL = ("Theme", "Screenshot")
_OF_THE_CHAT = ("help", "new", "conversations")
_DARK, _LIGHT = "textual-dark", "textual-light"


class MedusaApp(App[None], inherit_bindings=False):  # Quit comes last in the footer
    """One conversation with one model; neither is lost when the engine is."""

    CSS_PATH = "app.tcss"
    TITLE = "medusa-chat"
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-too-narrow"),
        (36, "-narrow"),
        (100, "-wide"),
        (130, "-roomy"),
    ]
    VERTICAL_BREAKPOINTS = [(0, "-too-short"), (10, "-short"), (36, "-tall")]  # noqa: RUF012
    # Priority: the prompt has the focus, and a text box has uses of its own for some of these keys.
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(keys.APP, priority=True),
        Binding("ctrl+c", "help_quit", show=False, system=True),
    ]

    def __init__(
        self,
        settings: Settings,
        load_request: LoadRequest,
        engine: Engine,
        history: History,
        resume: bool = False,
        to_fetch: ToFetch = fetch_nothing,
    ) -> None:
        """to_fetch: what the user is asked about before it is fetched; else the engine fetches it unasked.

        Raises UsageError for keys of the user's own that can't be bound.
        """
        super().__init__()
        self._keymap = checked_keymap(settings.keys)
        self.set_keymap(self._keymap)
        self.dials = Dials(settings.presets)
        self.defaults = Setup(settings.sampling, settings.system, settings.theme)
        self._history = history
        self._resume = resume
        self._to_fetch = to_fetch
        self._quantization = settings.quant
        self._link = EngineLink(engine)
        self.sidebar = Sidebar(history)
        self.loader = Loader(self._link, load_request)
        self.talk = Talk(history, self._link, self.loader, self.dials, settings)
        self.panel = Panel()
        self._notifier = Notifier(self._write_to_terminal, is_wanted=settings.notify)
        self._commands = SlashCommands(self, history)

    @property
    def prompt(self) -> Prompt:
        """Where messages are typed."""
        return self.talk.prompt

    @property
    def chat(self) -> ChatView:
        """The turns on the screen."""
        return self.talk.chat

    @property
    def is_ready(self) -> bool:
        """A model is loaded."""
        return self.loader.phase == "ready"

    @property
    def is_answering(self) -> bool:
        """A message has been sent and its reply has not ended."""
        return self.talk.is_answering

    # The screen

    def compose(self) -> ComposeResult:
        with Horizontal(id="room"):
            yield self.sidebar
            yield self.talk
            yield self.panel
        yield KeyLine()
        yield Static(_TOO_SMALL, id="too-small", markup=False)

    async def on_mount(self) -> None:
        self.prompt.focus()
        if self.defaults.theme in self.available_themes:
            self.theme = self.defaults.theme
        else:
            await self.talk.say(
                f"There is no theme {self.defaults.theme!r}. Ctrl+P lists them.", is_error=True
            )
        self.defaults = replace(self.defaults, theme=self.theme)
        self.run_worker(self._link.run(), group="link")
        self._show_options()
        self._show_figures()
        # Only now, so that neither competes with the first picture and the footer, which comes a frame later.
        self.set_timer(_SECONDS_TO_DRAW, self._begin_with_models)
        self.set_timer(_SECONDS_TO_DRAW, self._begin_with_history)

    async def on_unmount(self) -> None:
        await self.models.close()

    def _show_options(self) -> None:
        self.panel.show_options(self.talk.options)
        self.talk.strip.show(self.talk.meter, self.talk.options, self.loader.info)

    @on(Talk.Measured)
    def _show_figures(self) -> None:
        self.panel.show_reply(self.talk.meter, self.talk.options, self.loader.info)
        self.talk.strip.show(self.talk.meter, self.talk.options, self.loader.info)

    # The model

    @cached_property
    def models(self) -> ModelDesk:
        """Imported when it is first wanted, after the first picture."""
        from medusa_chat.app.models.desk import ModelDesk

        return ModelDesk(self, self._to_fetch, self._quantization)

    def _begin_with_models(self) -> None:
        self.models.begin()

    @on(Loader.Changed)
    def follow_loader(self) -> None:
        self._show_model()

    @on(EngineChanged)
    def follow_engine(self, event: EngineChanged) -> None:
        self.loader.info = event.info
        self._show_model()

    def _show_model(self) -> None:
        self.panel.show_model(self.loader.request, self.loader.info)
        self._show_figures()

    @on(Loader.Said)
    async def tell_of_loading(self, event: Loader.Said) -> None:
        await self.talk.say(event.sentence, is_error=event.is_error)

    def on_models_screen_chosen(self, event: ModelsScreen.Chosen) -> None:
        self.models.use(event.name, event.quantization)

    # For who is looking elsewhere

    @on(Talk.Began)
    def time_answer(self) -> None:
        self._notifier.begin()

    @on(Talk.Ended)
    def notify_of_answer(self, event: Talk.Ended) -> None:
        self._notifier.end(event.question, is_focused=self.app_focus)

    def _write_to_terminal(self, sequence: str) -> None:
        if self._driver is not None:
            self._driver.write(sequence)

    # What the user types

    @on(Prompt.Sent)
    async def take(self, event: Prompt.Sent) -> None:
        text = printable(event.text)
        if text.startswith("/"):
            await self._obey(text)
        else:
            await self.talk.take(text, event.pasted)

    async def _obey(self, line: str) -> None:
        """A command that can't be followed stays in the box, to be corrected."""
        try:
            await self._commands.obey(line)
        except MedusaError as error:
            self.prompt.give_back(line)
            await self.talk.say(str(error), is_error=True)

    # Conversations of earlier

    def _begin_with_history(self) -> None:
        self.run_worker(self._open_history(), group="resume")

    async def _open_history(self) -> None:
        """Goes on with the latest conversation, if wanted, and finds out at once whether any can be saved."""
        await asyncio.to_thread(warm_up)
        if self._resume:
            await self._continue_latest()
        try:
            await asyncio.to_thread(self._history.purge)
        except DatabaseDamaged as error:
            await self.talk.say(str(error), is_error=True)
        except HistoryError as error:
            await self.talk.keeper.tell_failure(error)

    async def _continue_latest(self) -> None:
        try:
            conversation = await asyncio.to_thread(load_conversation, self._history, None)
        except HistoryError as error:
            await self.talk.say(str(error), is_error=True)
            return
        if conversation is None:
            await self.talk.say("There is no conversation to continue yet.")
        elif not self.talk.conversation.turns:  # else the user was faster
            await self.talk.change_to(conversation)

    @on(Talk.Kept)
    def mark_open(self, event: Talk.Kept) -> None:
        self.sidebar.mark_open(event.conversation_id)
        self._show_options()

    @on(Sidebar.Opened)
    async def open_conversation(self, event: Sidebar.Opened) -> None:
        if event.conversation_id == self.talk.conversation.id:
            await self.talk.show_message(event.message_id)
        else:
            self._read_conversation(event.conversation_id, event.message_id)

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
        await self.talk.change_to(event.conversation, event.message_id)

    @on(Sidebar.Deleted)
    async def leave_deleted(self, event: Sidebar.Deleted) -> None:
        if event.record.id == self.talk.conversation.id:
            self.talk.conversation.is_deleted = True
            await self.talk.begin_another()

    @on(Sidebar.Restored)
    def come_back(self, event: Sidebar.Restored) -> None:
        if not self.talk.conversation.turns:
            self.post_message(Sidebar.Opened(event.record.id, None))

    @on(Sidebar.Failed)
    async def bear_failed_history(self, event: Sidebar.Failed) -> None:
        if isinstance(event.error, DatabaseDamaged):
            self.talk.conversation.forget_rows()
            await self.talk.say(str(event.error), is_error=True)

    # Options

    @property
    def setup(self) -> Setup:
        """All that can be set, as it is now."""
        return Setup(self.talk.options, self.talk.conversation.system, self.theme)

    def use(self, options: SamplingOptions) -> None:
        """Samples so from now on, the next step of a reply under way included."""
        self.set_up(replace(self.setup, options=options))

    def set_up(self, setup: Setup) -> None:
        """Takes over what has been set outside the settings' page, which then shows it."""
        self._take_over(setup)
        for screen in self.screen_stack:
            if isinstance(screen, SettingsScreen):
                screen.show(setup)

    def _take_over(self, setup: Setup) -> None:
        self.talk.conversation.system = setup.system
        self.theme = setup.theme
        self.talk.use(setup.options)
        self._show_options()
        self._show_figures()

    @on(SettingsScreen.Changed)
    def change(self, event: SettingsScreen.Changed) -> None:
        self._take_over(event.setup)

    @on(SettingsScreen.Saved)
    def keep_defaults(self, event: SettingsScreen.Saved) -> None:
        self.defaults = event.setup

    def action_settings(self) -> None:
        if isinstance(self.screen, SettingsScreen):
            self.screen.dismiss()
        elif not self.screen.is_modal:
            self.push_screen(SettingsScreen(self.dials, self.setup, self.defaults))

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A page over the chat is in the way of what is done with the chat."""
        return action not in _OF_THE_CHAT or not self.screen.is_modal

    def get_key_display(self, binding: Binding) -> str:
        """Also of the user's own keys."""
        return keys.footer_key(binding)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The palette's: all that a slash command does, and what of Textual's own makes sense here."""
        own = {command.title: command for command in super().get_system_commands(screen)}
        yield from (own[title] for title in _OF_TEXTUAL)
        if not screen.is_modal:
            yield SystemCommand("Conversations", "those of earlier", self.action_conversations)
            for command in COMMANDS:
                obey = partial(self._obey, f"/{command.name}")
                yield SystemCommand(command.name.capitalize(), command.help, obey)

    def action_help(self) -> None:
        self.push_screen(HelpScreen(self._keymap))

    def action_temperature(self, notches: int) -> None:
        self.use(dial_table.turn_temperature(self.talk.options, notches))

    def action_top_p(self, notches: int) -> None:
        self.use(dial_table.turn_top_p(self.talk.options, notches))

    def action_top_k(self, notches: int) -> None:
        self.use(dial_table.turn_top_k(self.talk.options, notches))

    def action_acceptance(self) -> None:
        self.use(dial_table.switch_acceptance(self.talk.options))

    def action_drafting(self) -> None:
        self.use(dial_table.switch_drafting(self.talk.options))

    def action_light_or_dark(self) -> None:
        self.set_up(replace(self.setup, theme=_LIGHT if self.current_theme.dark else _DARK))

    async def action_new(self) -> None:
        await self.talk.begin_another()

    def action_conversations(self) -> None:
        self.sidebar.toggle()

    def action_models(self) -> None:
        self.models.show_list()
