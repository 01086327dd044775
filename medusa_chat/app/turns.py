"""What the chat is made of: the user's messages, the model's replies, and notices between them."""

from __future__ import annotations

from typing import Literal

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from medusa_chat.app.attachments import display_text
from medusa_chat.app.conversation import Turn
from medusa_chat.app.origins import coloured, legend
from medusa_chat.app.reply_text import ReplyText
from medusa_chat.app.stack import Stack
from medusa_chat.printable import printable

_LINES_SHOWN_FOLDED = 6
_LINES_UNFOLDED_AT_FIRST = 40  # of a message; a pasted log would push its answer off the screen
View = Literal["rendered", "raw", "origins"]


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


class AssistantTurn(Stack):
    """A reply: Markdown that grows while it streams, and a caption below.

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
        self._text = ReplyText(turn.content if turn else "")
        self._letters = Static(markup=False, classes="letters")
        self._ending = caption
        self._caption = Static(self._caption_line(), markup=False, classes="caption")

    def compose(self) -> ComposeResult:
        yield self._text
        yield self._letters
        yield self._caption

    @property
    def has_others(self) -> bool:
        """It is one of several answers."""
        return bool(self._place)

    def feed(self, text: str) -> None:
        """Appends to the reply."""
        self._text.feed(text)
        self._show_letters()

    def finish(self, caption: str) -> None:
        """The whole reply has been fed."""
        self._show_letters()
        self.show_caption(caption)
        self.is_settled = True
        self.call_after_refresh(self._text.lay_out_end)

    def show_caption(self, caption: str) -> None:
        self._ending = caption
        self._caption.update(self._caption_line())

    def show_place(self, place: str) -> None:
        """Where the reply stands among its alternatives, once it is one of them."""
        self._place = place
        self._caption.update(self._caption_line())

    def toggle_fold(self) -> None:
        """Shows the first lines only, or all of it."""
        self.toggle_class("-folded")
        self._caption.update(self._caption_line())

    def toggle_raw(self) -> None:
        """Shows the Markdown as it was written, or rendered."""
        self.show_as("rendered" if self._view == "raw" else "raw")

    def show_as(self, view: View) -> None:
        """rendered: Markdown. raw: as it was written. origins: that, coloured by whose guess each token was,
        for replies of this session.
        """
        self._view = view
        self._show_letters()
        self._caption.update(self._caption_line())

    def _show_letters(self) -> None:
        """In place of the Markdown, where another view is wanted and there is something to see in it."""
        turn = self.turn
        is_shown = turn is not None and (
            self._view == "raw" or (self._view == "origins" and bool(turn.pieces))
        )
        self.set_class(is_shown, "-letters")
        if is_shown and turn is not None:
            raw = Content(printable(turn.content))
            self._letters.update(coloured(turn.pieces) if self._view == "origins" else raw)

    def _caption_line(self) -> Content:
        if self._view == "origins" and self.turn is not None and self.turn.pieces:
            return legend(self.turn.pieces)
        parts = ["… folded"] if self.has_class("-folded") else []
        parts += [f"‹ {self._place} ›"] if self._place else []
        parts += [self._ending] if self._ending else []
        return Content(" · ".join(parts))
