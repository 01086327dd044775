"""A growing Markdown text, parted so that what is laid out again while it streams stays short."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from medusa_chat.app.conversation import Piece

_LINES_A_PART = 20
_LETTERS_A_PART = 2000
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_ITEM_OR_HEADING = re.compile(r"(?:[-+*]|\d{1,9}[.)]|#{1,6})\s")


@dataclass(eq=False, slots=True)
class Part:
    """opening: what of the part before is said again. pieces: the text by origin. went_on: the first block is
    the last one of the part before, whose goes_on says the same.
    """

    opening: str = ""
    text: str = ""
    pieces: list[Piece] = field(default_factory=list)
    num_lines: int = 0
    went_on: bool = False
    goes_on: bool = False

    @property
    def source(self) -> str:
        """A Markdown document of its own."""
        return self.opening + self.text


class Parts:
    """Takes in text; a new part begins where a block does, or inside of one that is too long.

    A block of code that is parted is opened again, a table gets its heading again. Looks at lines only:
    parsing megabytes would take minutes.
    """

    def __init__(self) -> None:
        self.last = Part()
        self._line = ""  # the beginning of the line that the text ends in
        self._after_blank = True
        self._fence: tuple[str, str] | None = None  # its marks, and the line that opens it
        self._table: list[str] = []

    def grow(self, pieces: Iterable[Piece]) -> Iterator[Part]:
        """Yields each part that the text goes into, when it has its share of it."""
        uncut = _Uncut(pieces)
        for line in _lines(uncut.text):
            if self._must_part and (opening := self._opening(line)) is not None:
                self.last.goes_on = not self._begins_block(line)
                yield self.last
                self.last = Part(opening, went_on=self.last.goes_on)
            self._take(line)
            self.last.pieces += uncut.take(len(line))
        yield self.last

    @property
    def _must_part(self) -> bool:
        return self.last.num_lines >= _LINES_A_PART or len(self.last.text) >= _LETTERS_A_PART

    def _begins_block(self, piece: str) -> bool:
        return self._fence is None and not self._line and self._after_blank and piece[:1] not in " \t\n"

    def _opening(self, piece: str) -> str | None:
        """What a part that begins here has to begin with; None where none may."""
        is_long = self.last.num_lines >= 2 * _LINES_A_PART or len(self.last.text) >= 2 * _LETTERS_A_PART
        if self._fence is not None:
            return self._fence[1] if not self._line or is_long else None
        if self._begins_block(piece) or (not self._line and _ITEM_OR_HEADING.match(piece)):
            return ""
        if not is_long:
            return None
        return "".join(self._table[:2]) if len(self._table) > 2 and not self._line else ""

    def _take(self, piece: str) -> None:
        self.last.text += piece
        self._line += piece
        if piece.endswith("\n"):
            self.last.num_lines += 1
            self._end_line(self._line)
            self._line = ""

    def _end_line(self, line: str) -> None:
        self._after_blank = not line.strip()
        mark = _FENCE.match(line)
        if self._fence is not None:
            if mark and mark[1].startswith(self._fence[0]) and not mark[2].strip():
                self._fence, self._after_blank = None, True
        elif mark:
            self._fence = mark[1], line
        self._table = [*self._table[:2], line] if line.lstrip().startswith("|") else []


class _Uncut:
    """Pieces that are cut anew, where lines end. text: of them all."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = deque(pieces)
        self._start = 0  # in the first
        self.text = "".join(text for text, _ in self._pieces)

    def take(self, length: int) -> Iterator[Piece]:
        """Yields so many characters off the front."""
        while length:
            text, origin = self._pieces[0]
            piece = text[self._start : self._start + length]
            yield piece, origin
            length -= len(piece)
            self._start += len(piece)
            if self._start == len(text):
                self._pieces.popleft()
                self._start = 0


def _lines(text: str) -> Iterator[str]:
    """Lines, and long ones in pieces."""
    for line in text.splitlines(keepends=True):
        for start in range(0, len(line), _LETTERS_A_PART):
            yield line[start : start + _LETTERS_A_PART]
