"""Keys and commands on one page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from medusa_chat.app.commands import COMMANDS
from medusa_chat.app.keys import chat_rows, conversation_rows, message_rows

_FIRST_COLUMN = 22


class HelpScreen(ModalScreen[None]):
    """Closed by Esc, F1, Enter or q. keymap: the user's own keys, as the app has them."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f1,enter,q", "dismiss", "Close")]

    def __init__(self, keymap: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._keymap = keymap or {}

    def compose(self) -> ComposeResult:
        lines: list[Content] = []
        for title, rows in (
            ("Keys", chat_rows(self._keymap)),
            ("Commands", [(f"/{command.name} {command.argument}", command.help) for command in COMMANDS]),
            ("On a selected message", message_rows(self._keymap)),
            ("In the conversations", conversation_rows(self._keymap)),
        ):
            lines += [Content.assemble((title, "bold $foreground 50%")), *(_line(*row) for row in rows)]
            lines.append(Content())
        with VerticalScroll(id="help"):
            yield Static(Content("\n").join(lines[:-1]), markup=False)


def _line(key: str, meaning: str) -> Content:
    return Content.assemble((key.ljust(_FIRST_COLUMN), "bold"), meaning)
