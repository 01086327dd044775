"""Keys and commands on one page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from medusa_chat.app.commands import COMMANDS
from medusa_chat.app.keys import chat_rows, conversation_rows, message_rows

_FIRST_COLUMN, _LEAST_CELLS = 22, 10


class HelpScreen(ModalScreen[None]):
    """Closed by Esc, F1, Enter or q. keymap: the user's own keys, as the app has them."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f1,enter,q", "dismiss", "Close")]

    def __init__(self, keymap: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._keymap = keymap or {}
        self._page = Static(markup=False)

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield self._page

    def on_resize(self) -> None:
        self._page.update(Content("\n").join(self._lines(self._page.size.width)))

    def _lines(self, width: int) -> Iterator[Content]:
        for title, rows in (
            ("Keys", chat_rows(self._keymap)),
            ("\nCommands", [(f"/{command.name} {command.argument}", command.help) for command in COMMANDS]),
            ("\nOn a selected message", message_rows(self._keymap)),
            ("\nIn the conversations", conversation_rows(self._keymap)),
        ):
            yield Content.styled(title, "bold $foreground 50%")
            for key, meaning in rows:
                yield from _row(key, meaning, max(width - _FIRST_COLUMN, _LEAST_CELLS))


def _row(key: str, meaning: str, cells: int) -> Iterator[Content]:
    """The second column goes on below itself."""
    for number, line in enumerate(Content(meaning).wrap(cells)):
        yield Content.assemble((("" if number else key).ljust(_FIRST_COLUMN), "bold"), line)
