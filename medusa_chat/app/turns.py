"""What the chat is made of: the user's messages, the model's replies, and notices between them."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from medusa_chat.app.attachments import display_text
from medusa_chat.app.conversation import Piece, Turn
from medusa_chat.app.origins import legend, letters_by_origin
from medusa_chat.app.part_lines import View
from medusa_chat.app.reply_text import ReplyText
from medusa_chat.app.stack import Stack
from medusa_chat.printable import printable

_LINES_SHOWN_FOLDED = 6
_LINES_UNFOLDED_AT_FIRST = 40  # of a message; a pasted log would push its answer off the screen


class Notice(Static):
    """One sentence of the program. is_error: something went wrong."""

    def __init__(self, text: str, *, is_error: bool = False, id: str | None = None) -> None:
        super().__init__(Content(printable(text)), markup=False, id=id, classes="-error" if is_error else "")


class UserTurn(Static):
    """A message of the user, as typed, with a line for each file attached. A long one is folded at first."""

    can_focus = True
    FOCUS_ON_CLICK = False  # a click selects text, and what is typed next is for the prompt

    def __init__(self, turn: Turn, place: str = "") -> None:
        """place: among alternatives, such as "2/3"."""
        super().__init__(markup=False)
        self.turn = turn
        self._text = printable(display_text(turn.content))
        self._place = place
        self._is_folded = self._text.count("\n") >= _LINES_UNFOLDED_AT_FIRST

    def on_mount(self) -> None:
        self._show()

    @property
    def has_others(self) -> bool:
        """It is one of several wordings."""
        return bool(self._place)

    def toggle_fold(self) -> None:
        """Shows the first lines only, or all of it."""
        self._is_folded = not self._is_folded
        self._show()

    def _show(self) -> None:
        lines = self._text.split("\n")
        num_hidden = len(lines) - _LINES_SHOWN_FOLDED if self._is_folded else 0
        text = "\n".join(lines[:_LINES_SHOWN_FOLDED]) if num_hidden > 0 else self._text
        notes = [f"… {num_hidden:,} more lines"] if num_hidden > 0 else []
        notes += [f"‹ {self._place} ›"] if self._place else []
        note = f"\n{' · '.join(notes)}" if notes else ""
        self.update(Content.assemble(text, (note, "$foreground 45%")))


class Caption(Static):
    """The line below a reply, or two in a narrow terminal: lays out only where their number changes."""

    def show(self, content: Content) -> None:
        rows = content.get_height({}, self.size.width or 1)
        self.update(content, layout=rows != self.size.height)


class AssistantTurn(Stack):
    """A reply that grows while it streams, and a caption below.

    turn: what it shows; None until the first text arrives. is_settled: it doesn't change any more.
    """

    can_focus = True
    FOCUS_ON_CLICK = False

    def __init__(self, turn: Turn | None = None, caption: str = "", place: str = "") -> None:
        """place: among alternatives, such as "2/3"."""
        super().__init__()
        self.turn = turn
        self.is_settled = turn is not None
        self._place = place
        self._view: View = "rendered"
        pieces = turn.all_pieces if turn else []
        self._text = ReplyText(pieces)
        self._by_origin = letters_by_origin(pieces)
        self._ending = caption
        self._caption = Caption(self._caption_line(), markup=False, classes="caption")

    def compose(self) -> ComposeResult:
        yield self._text
        yield self._caption

    @property
    def has_others(self) -> bool:
        """It is one of several answers."""
        return bool(self._place)

    def feed(self, pieces: Sequence[Piece]) -> None:
        """Appends to the reply."""
        was_coloured = self._is_coloured
        self._by_origin += letters_by_origin(pieces)
        if self._is_coloured and not was_coloured:
            self._show()
        self._text.feed(pieces)
        if self._is_coloured:
            self._caption.show(self._caption_line())

    def show_more(self) -> None:
        """Shows what waited until the reader had scrolled on."""
        self._text.show_more()

    def finish(self, caption: str) -> None:
        """The whole reply has been fed."""
        self.show_caption(caption)
        self.is_settled = True

    def show_caption(self, caption: str) -> None:
        self._ending = caption
        self._caption.show(self._caption_line())

    def show_place(self, place: str) -> None:
        """Where the reply stands among its alternatives, once it is one of them."""
        self._place = place
        self._caption.show(self._caption_line())

    def toggle_fold(self) -> None:
        """Shows the first lines only, or all of it."""
        self.toggle_class("-folded")
        self._caption.show(self._caption_line())

    def toggle_raw(self) -> None:
        """Shows the Markdown as it was written, or rendered."""
        self.show_as("rendered" if self._view == "raw" else "raw")

    def show_as(self, view: View) -> None:
        """Shows it otherwise. Of a reply of an earlier session the origins are forgotten."""
        self._view = view
        self._show()

    @property
    def _is_coloured(self) -> bool:
        return self._view == "origins" and bool(self._by_origin)

    def _show(self) -> None:
        is_rendered = self._view == "origins" and not self._is_coloured
        self._text.show_as("rendered" if is_rendered else self._view)
        self._caption.show(self._caption_line())

    def _caption_line(self) -> Content:
        if self._is_coloured:
            return legend(self._by_origin)
        parts = ["… folded"] if self.has_class("-folded") else []
        parts += [f"‹ {self._place} ›"] if self._place else []
        parts += [self._ending] if self._ending else []
        return Content(" · ".join(parts))
