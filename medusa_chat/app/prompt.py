"""The box that messages are typed into."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from medusa_chat.printable import printable


class Prompt(TextArea):
    """Enter sends; Ctrl+J or Shift+Enter begins a new line; a paste of many lines only fills the box.

    Sending empties the box at once, so that what is typed next can't be swept away with it; a text that
    the app can't take comes back with `give_back`.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("pageup", "scroll_chat(-1)", show=False, priority=True),
        Binding("pagedown", "scroll_chat(1)", show=False, priority=True),
    ]

    class Sent(Message):
        """The user pressed Enter."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class ScrolledChat(Message):
        """The user pages through the chat: -1 up, 1 down."""

        def __init__(self, pages: int) -> None:
            super().__init__()
            self.pages = pages

    def give_back(self, text: str) -> None:
        """Puts a text that wasn't taken before what has been typed since."""
        self.text = text + self.text
        self.move_cursor(self.document.end)

    def hint(self, text: str) -> None:
        """Says something below the box until the text in it changes."""
        self.border_subtitle = text

    def on_text_area_changed(self) -> None:
        self.border_subtitle = ""

    def _send(self) -> None:
        text = self.text
        self.clear()
        self.post_message(self.Sent(text))

    def action_scroll_chat(self, pages: int) -> None:
        self.post_message(self.ScrolledChat(pages))

    async def _on_key(self, event: events.Key) -> None:
        # Not by bindings: those of a rank above TextArea's own keys overtake letters still on their way.
        act = {"enter": self._send, "ctrl+j": self._break_line, "shift+enter": self._break_line}.get(
            event.key
        )
        if act is not None:
            event.prevent_default()
            event.stop()
            act()

    def _break_line(self) -> None:
        self.insert("\n")

    async def _on_paste(self, event: events.Paste) -> None:
        # Terminals send a pasted line break as a carriage return.
        event.prevent_default()
        event.stop()
        self.insert(printable(event.text.replace("\r\n", "\n").replace("\r", "\n")))
