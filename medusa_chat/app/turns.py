"""What the chat is made of: the user's messages, the model's replies, and notices between them."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static
from textual.widgets.markdown import MarkdownStream

from medusa_chat.app.attachments import display_text
from medusa_chat.app.conversation import Turn
from medusa_chat.app.safe_markdown import SafeMarkdown
from medusa_chat.printable import printable


class UserTurn(Static):
    """A message of the user, as typed, with a line for each file attached."""

    def __init__(self, turn: Turn) -> None:
        super().__init__(Content(printable(display_text(turn.content))), markup=False)
        self.turn = turn


class Notice(Static):
    """One sentence of the program. is_error: something went wrong."""

    def __init__(self, text: str, *, is_error: bool = False, id: str | None = None) -> None:
        super().__init__(Content(printable(text)), markup=False, id=id, classes="-error" if is_error else "")


class AssistantTurn(Vertical):
    """A reply: Markdown that grows while it streams, and a caption below.

    turn: what it shows; None until the first text arrives. is_settled: it doesn't change any more.
    """

    def __init__(self, turn: Turn | None = None, caption: str = "") -> None:
        super().__init__()
        self.turn = turn
        self.is_settled = turn is not None
        text = turn.content if turn else ""
        self._markdown = SafeMarkdown(printable(text) or None)
        self._caption = Static(Content(caption), markup=False, classes="caption")
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        yield self._markdown
        yield self._caption

    async def feed(self, text: str) -> None:
        """Appends to the reply."""
        if self._stream is None:
            self._stream = SafeMarkdown.get_stream(self._markdown)
            self.show_caption("")
        await self._stream.write(printable(text))

    async def finish(self, text: str, caption: str) -> None:
        """Shows the whole reply as one document: a stream's pieces may have split a block."""
        if self._stream is not None:
            await self._stream.stop()
            self._stream = None
        await self._markdown.update(printable(text))
        self.show_caption(caption)
        self.is_settled = True

    def show_caption(self, caption: str) -> None:
        self._caption.update(Content(caption))
