"""A line to type a conversation's title into."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static


class RenameScreen(ModalScreen[str | None]):
    """Enter gives the new title, Esc None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel", key_display="Esc")]

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title_now = title

    def compose(self) -> ComposeResult:
        with Vertical(id="rename"):
            yield Static("Title · Enter keeps it, Esc leaves it as it was", markup=False)
            yield Input(self._title_now, max_length=200, compact=True)

    @on(Input.Submitted)
    def give_title(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip() or None)
