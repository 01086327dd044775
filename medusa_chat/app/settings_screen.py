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

from medusa_chat.app.dial_row import DialRow
from medusa_chat.app.dials import Dial, Dials, Setup
from medusa_chat.app.scales import Text
from medusa_chat.app.text_screen import TextScreen
from medusa_chat.errors import MedusaError, UsageError
from medusa_chat.printable import printable
from medusa_chat.settings import save_defaults

_BIG = 5
_TITLE = "Settings · • differs from default"
_KEYS = (
    "←→ step · [@click=screen.type]Enter exact[/] · [@click=screen.reset]Del reset[/] · "
    "[@click=screen.save]S save[/] · [@click=screen.reset_all]B all defaults[/] · "
    "[@click=screen.dismiss]Esc close[/]"
)


class Rows(VerticalScroll, can_focus=False, inherit_bindings=False):
    """The keys here are for the row that has the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "app.focus_previous", show=False),
        Binding("down", "app.focus_next", show=False),
        Binding("home", "screen.go(0)", show=False),
        Binding("end", "screen.go(-1)", show=False),
        Binding("left", "screen.step(-1)", show=False),
        Binding("right,space", "screen.step(1)", show=False),
        Binding("shift+left", f"screen.step(-{_BIG})", show=False),
        Binding("shift+right", f"screen.step({_BIG})", show=False),
        Binding("enter", "screen.type", show=False),
        Binding("delete,backspace", "screen.reset", show=False),
        Binding("s", "screen.save", show=False),
        Binding("b", "screen.reset_all", show=False),
        Binding("u", "screen.undo", show=False),
    ]


class SettingsScreen(ModalScreen[None]):
    """Closed by Esc. Posts what is in force after each change; `show` tells it of changes made elsewhere."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Close")]
    DEFAULT_CSS = """
    SettingsScreen {
        align: center middle;
        #settings {
            width: 76; max-width: 100%; height: auto; max-height: 100%;
            padding: 0 1; background: $surface; border: round $primary;
        }
        #settings-title { height: 1; text-style: bold; color: $foreground 50%; }
        Rows { height: auto; scrollbar-size-vertical: 1; }
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
        with Vertical(id="settings"):
            yield Static(_TITLE, markup=False, id="settings-title")
            with Rows():
                yield from self._rows.values()
            yield self._exact
            yield self._help
            yield Static(Content.from_markup(_KEYS), id="settings-keys")

    def on_mount(self) -> None:
        self._current.focus()
        self._draw()

    def on_resize(self) -> None:
        self._fit()

    def _fit(self) -> None:
        """The rows get what the rest leaves: a container as high as they are would push the rest out."""
        box = self.query_one("#settings")
        rows = self.query_one(Rows)
        others = sum(child.outer_size.height for child in box.children if child is not rows)
        rows.styles.max_height = max(self.size.height - box.gutter.height - others, 1)
        self.call_after_refresh(self._current.scroll_visible, animate=False)

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
        self.call_after_refresh(self._fit)

    @property
    def _dial(self) -> Dial:
        return self._current.dial

    @on(events.DescendantFocus)
    def follow_focus(self, event: events.DescendantFocus) -> None:
        if isinstance(event.widget, DialRow):
            self._close_input()
            self._current = event.widget
            self._say(self._dial.help)
            self._draw()

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
        tuple(self._rows.values())[place].focus()

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
        self._exact.focus()
        self._say(f"{dial.label}: {printable(dial.scale.wanted)}.")

    @on(Input.Submitted)
    def take_typed(self, event: Input.Submitted) -> None:
        event.stop()
        if self._take(event.value):
            self._current.focus()

    def _take_text(self, text: str | None) -> None:
        self._take(text or "")

    def _take(self, text: str) -> bool:
        return self._try(lambda: self._dials.set(self._setup, self._dial.name, text))

    def _close_input(self) -> None:
        self._exact.display = False

    def action_leave(self) -> None:
        if self._exact.has_focus:
            self._current.focus()
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
