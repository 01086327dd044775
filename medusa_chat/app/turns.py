"""What the chat is made of: the user's messages, the model's replies, and notices between them."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from medusa_chat.app.conversation import Turn
from medusa_chat.app.reply_text import ReplyText
from medusa_chat.app.stack import Stack
from medusa_chat.printable import printable


class UserTurn(Static):
    """A message of the user, as typed."""

    def __init__(self, turn: Turn) -> None:
        super().__init__(Content(printable(turn.content)), markup=False)
        self.turn = turn


class Notice(Static):
    """One sentence of the program. is_error: something went wrong."""

    def __init__(self, text: str, *, is_error: bool = False, id: str | None = None) -> None:
        super().__init__(Content(printable(text)), markup=False, id=id, classes="-error" if is_error else "")


class AssistantTurn(Stack):
    """A reply: Markdown that grows while it streams, and a caption below.

    turn: what it shows; None until the first text arrives. is_settled: it doesn't change any more.
    """

    def __init__(self, turn: Turn | None = None, caption: str = "") -> None:
        super().__init__()
        self.turn = turn
        self.is_settled = turn is not None
        self._text = ReplyText(turn.content if turn else "")
        self._caption = Static(Content(caption), markup=False, classes="caption")

    def compose(self) -> ComposeResult:
        yield self._text
        yield self._caption

    def feed(self, text: str) -> None:
        """Appends to the reply."""
        self._text.feed(text)

    def finish(self, caption: str) -> None:
        """The whole reply has been fed."""
        self.show_caption(caption)
        self.is_settled = True

    def show_caption(self, caption: str) -> None:
        self._caption.update(Content(caption))
