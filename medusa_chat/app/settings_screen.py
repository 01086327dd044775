"""All options on one page, each changed by a key or the mouse, and in force at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.suggester import SuggestFromList
from textual.widgets import Input, Static

from medusa_chat.app.dial import Dial, Setup
from medusa_chat.app.dial_row import DialRow
from medusa_chat.app.dials import Dials
from medusa_chat.app.scales import Text
from medusa_chat.app.text_screen import TextScreen
from medusa_chat.errors import MedusaError, UsageError
from medusa_chat.printable import printable
from medusa_chat.settings import save_defaults

_BIG = 5
_OTHER_LINES = 7  # the border's two, the title, three of help, the keys
_TITLE = "Settings · • differs from default"
_KEYS = (
    "←→ step · [@click=screen.type]Enter exact[/] · [@click=screen.reset]Del reset[/] · "
    "[@click=screen.save]S save[/] · [@click=screen.reset_all]B all defaults[/] · "
    "[@click=screen.dismiss]Esc close[/]"
)


class Rows(VerticalScroll, can_focus=False, inherit_bindings=False):
    """The keys here are for the row that has the focus."""

    # Priority: they are followed in the order they were typed, before what is typed into a box after them.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(keys, action, show=False, priority=True)
        for keys, action in (
            ("up", "app.focus_previous"),
            ("down", "app.focus_next"),
            ("home", "screen.go(0)"),
            ("end", "screen.go(-1)"),
            ("left", "screen.step(-1)"),
            ("right,space", "screen.step(1)"),
            ("shift+left", f"screen.step(-{_BIG})"),
            ("shift+right", f"screen.step({_BIG})"),
            ("enter", "screen.type"),
            ("delete,backspace", "screen.reset"),
            ("s", "screen.save"),
            ("b", "screen.reset_all"),
            ("u", "screen.undo"),
        )
    ]

    class Resized(Message):
        """Other lines need more room, or less."""

    def on_resize(self) -> None:
        self.post_message(self.Resized())


class SettingsScreen(ModalScreen[None]):
    """Closed by Esc. Posts what is in force after each change; `show` tells it of changes made elsewhere.

    The focus is moved by set_focus, at once: a widget's own focus() lets keys typed after it go astray.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Close")]
    DEFAULT_CSS = """
    SettingsScreen {
        align: center middle;
        #settings {
            width: 76; max-width: 100%; max-height: 100%;
            padding: 0 1; background: $surface; border: round $primary;
        }
        #settings-title { height: 1; text-style: bold; color: $foreground 50%; }
        Rows { height: 1fr; min-height: 1; scrollbar-size-vertical: 1; }
        DialRow { height: 1; }
        DialRow:hover { background: $foreground 8%; }
        Input { display: none; background: $background; padding: 0 1; }
        #settings-help { height: auto; min-height: 2; max-height: 5; }
        #settings-keys {
            height: auto; max-height: 3; color: $foreground 50%;
            link-style: none; link-color: $foreground 50%; link-background: $surface;
        }
    }
    """

    class Changed(Message):
        """This is in force from now on."""

        def __init__(self, setup: Setup) -> None:
            super().__init__()
            self.setup = setup

    class Saved(Message):
        """This stands in config.toml now."""

        def __init__(self, setup: Setup, path: Path) -> None:
            super().__init__()
            self.setup = setup
            self.path = path

    class Failed(Message):
        """It could not be saved."""

        def __init__(self, error: MedusaError) -> None:
            super().__init__()
            self.error = error

    def __init__(self, dials: Dials, setup: Setup, defaults: Setup) -> None:
        super().__init__()
        self._dials = dials
        self._setup = setup
        self._defaults = defaults
        self._before: Setup | None = None  # all went back to their defaults
        self._rows = {dial.name: DialRow(dial) for dial in dials}
        self._current = next(iter(self._rows.values()))
        self._exact = Input(compact=True)
        self._help = Static(markup=False, id="settings-help")

    def compose(self) -> ComposeResult:
        with Vertical(id="settings") as box:
            box.styles.height = len(self._rows) + _OTHER_LINES
            yield Static(_TITLE, markup=False, id="settings-title")
            with Rows():
                yield from self._rows.values()
            yield self._exact
            yield self._help
            yield Static(Content.from_markup(_KEYS), id="settings-keys")

    def on_mount(self) -> None:
        self.set_focus(self._current)
        self._draw()

    def show(self, setup: Setup) -> None:
        """Something else has changed an option."""
        self._setup = setup
        self._draw()

    # What is seen

    def _draw(self) -> None:
        for row in self._rows.values():
            row.show(self._setup, self._defaults, is_current=row is self._current)

    def _say(self, sentence: str) -> None:
        self._help.update(Content(printable(sentence)))

    @property
    def _dial(self) -> Dial:
        """That of the row the keys are for, also when the news of its focus is still on its way."""
        if isinstance(self.focused, DialRow):
            self._current = self.focused
        return self._current.dial

    @on(events.DescendantFocus)
    def follow_focus(self, event: events.DescendantFocus) -> None:
        # It may have lost it again by now: to the box for an exact value, say.
        if isinstance(event.widget, DialRow) and event.widget.has_focus:
            self._exact.display = False
            self._current = event.widget
            self._say(self._dial.help)
            self._draw()

    @on(Rows.Resized)
    def keep_in_view(self) -> None:
        self._current.scroll_visible(animate=False)

    # Changes

    def _use(self, setup: Setup) -> None:
        self._before = None
        self._say(self._dial.help)
        if setup != self._setup:
            self._setup = setup
            self.post_message(self.Changed(setup))
        self._draw()

    def _try(self, change: Callable[[], Setup]) -> bool:
        """Says why, and changes nothing, where it can't be."""
        try:
            self._use(change())
        except UsageError as error:
            self._say(str(error))
            return False
        return True

    def action_step(self, notches: int) -> None:
        self._try(lambda: self._dials.step(self._setup, self._dial.name, notches))

    def action_reset(self) -> None:
        self._try(lambda: self._dials.reset(self._setup, self._dial.name, self._defaults))

    def action_reset_all(self) -> None:
        before = self._setup
        self._use(self._defaults)
        self._before = before
        self._say("All options are at their defaults. U brings back what was.")

    def action_undo(self) -> None:
        if self._before is not None:
            self._use(self._before)

    @on(DialRow.Stepped)
    def step_clicked(self, event: DialRow.Stepped) -> None:
        self.action_step(event.notches)

    @on(DialRow.Slid)
    def slide(self, event: DialRow.Slid) -> None:
        self._try(lambda: self._dials.slide(self._setup, self._dial.name, event.share))

    def action_go(self, place: int) -> None:
        self.set_focus(tuple(self._rows.values())[place])

    # Exact values

    @on(DialRow.Asked)
    def action_type(self) -> None:
        dial = self._dial
        if isinstance(dial.scale, Text):
            text = dial.value(self._setup) or ""
            self.app.push_screen(TextScreen(dial.label, text), self._take_text)
            return
        choices = dial.scale.choices
        self._exact.suggester = SuggestFromList(choices) if choices else None
        self._exact.value = dial.shown(self._setup)
        self._exact.display = True
        self.set_focus(self._exact)
        self._say(f"{dial.label}: {printable(dial.scale.wanted)}.")

    @on(Input.Submitted)
    def take_typed(self, event: Input.Submitted) -> None:
        event.stop()
        if self._take(event.value):
            self.set_focus(self._current)

    def _take_text(self, text: str | None) -> None:
        self._take(text or "")

    def _take(self, text: str) -> bool:
        return self._try(lambda: self._dials.set(self._setup, self._dial.name, text))

    def action_leave(self) -> None:
        if self._exact.has_focus:
            self.set_focus(self._current)
        else:
            self.dismiss()

    # Saving

    @work(group="save", exclusive=True)
    async def action_save(self) -> None:
        setup = self._setup
        try:
            path = await asyncio.to_thread(save_defaults, setup.options, setup.system, setup.theme)
        except MedusaError as error:
            self.post_message(self.Failed(error))
        else:
            self.post_message(self.Saved(setup, path))

    @on(Saved)
    def tell_saved(self, event: Saved) -> None:
        self._defaults = event.setup
        self._draw()
        self._say(f"Saved as defaults in {event.path}.")

    @on(Failed)
    def tell_failure(self, event: Failed) -> None:
        event.stop()
        self._say(str(event.error))
