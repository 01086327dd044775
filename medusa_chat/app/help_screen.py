"""Keys and commands on one page."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from medusa_chat.app.commands import COMMANDS

_KEYS = (
    ("Enter", "send"),
    ("Ctrl+J, Shift+Enter", "new line"),
    ("Esc", "stop the reply, keep what is there"),
    ("Page up, Page down", "scroll the chat"),
    ("F2, F3", "temperature down, up"),
    ("F4, F5", "top-p down, up"),
    ("F6, F7", "top-k down, up"),
    ("F8", "acceptance: exact or typical (lossy)"),
    ("F9", "drafting on or off"),
    ("Ctrl+N", "new conversation"),
    ("Ctrl+O", "conversations: search, open, rename, pin, delete, export"),
    ("Ctrl+L", "models: switch, fetch, what fits this machine"),
    ("Ctrl+T", "light or dark"),
    ("Ctrl+Q", "quit"),
)
_FIRST_COLUMN = 22


class HelpScreen(ModalScreen[None]):
    """Closed by Esc, F1, Enter or q."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f1,enter,q", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        rows: list[tuple[str, str]] = [("Keys", ""), *_KEYS, ("", ""), ("Commands", "")]
        rows += [(f"/{command.name} {command.argument}", command.help) for command in COMMANDS]
        with VerticalScroll(id="help"):
            yield Static(Content("\n").join(_line(*row) for row in rows), markup=False)


def _line(key: str, meaning: str) -> Content:
    if not meaning:
        return Content.assemble((key, "bold $foreground 50%"))
    return Content.assemble((key.ljust(_FIRST_COLUMN), "bold"), meaning)
