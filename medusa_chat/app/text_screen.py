"""A box to write a text of several lines in."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static, TextArea

from medusa_chat.printable import printable


class _Box(TextArea):
    async def _on_paste(self, event: events.Paste) -> None:
        # Before TextArea's own: terminals send a line break as a carriage return.
        event.text = printable(event.text.replace("\r\n", "\n").replace("\r", "\n"))


class TextScreen(ModalScreen[str]):
    """Esc gives the text as it then is."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "give", "Done", priority=True)]
    DEFAULT_CSS = """
    TextScreen {
        align: center middle;
        Vertical {
            width: 72; max-width: 100%; height: 16; max-height: 100%;
            padding: 0 1; background: $surface; border: round $primary;
        }
        Static { height: 1; color: $foreground 60%; }
        TextArea { height: 1fr; border: none; background: $background; padding: 0 1; }
    }
    """

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._head = title
        self._box = _Box(printable(text), highlight_cursor_line=False)

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Content(f"{self._head} · Esc keeps it, Ctrl+Z undoes"), markup=False)
            yield self._box

    def on_mount(self) -> None:
        self._box.focus()
        self._box.move_cursor(self._box.document.end)

    def action_give(self) -> None:
        self.dismiss(self._box.text)
