"""Text in which SQLite has marked what matches."""

from __future__ import annotations

import re
from dataclasses import dataclass

from medusa_chat.printable import printable

# Control characters, since any other mark may stand in the text itself.
BEGIN, END = "\x02", "\x03"
_MARKS = re.compile(f"([{BEGIN}{END}])")


@dataclass(frozen=True, slots=True)
class Excerpt:
    """One printable line. matches: where in text the searched words stand, as (start, end)."""

    text: str
    matches: tuple[tuple[int, int], ...] = ()

    def around_first_match(self, length: int) -> Excerpt:
        """At most about so many characters: a word may be as long as it likes."""
        if len(self.text) <= length:
            return self
        first = self.matches[0][0] if self.matches else 0
        start = max(min(first - length // 4, len(self.text) - length), 0)
        before = "…" if start else ""
        shift = len(before) - start
        matches = tuple(
            (max(begin + shift, len(before)), min(end, start + length) + shift)
            for begin, end in self.matches
            if start < end and begin < start + length
        )
        after = "…" if start + length < len(self.text) else ""
        return Excerpt(f"{before}{self.text[start : start + length]}{after}", matches)


def read_excerpt(marked: str) -> Excerpt:
    """The excerpt that SQLite's snippet() or highlight() has marked with BEGIN and END."""
    text, start = "", None
    matches: list[tuple[int, int]] = []
    for piece in _MARKS.split(" ".join(marked.split())):
        if piece == BEGIN:
            start = len(text)
        elif piece == END:
            if start is not None:
                matches.append((start, len(text)))
            start = None
        else:
            text += printable(piece)
    return Excerpt(text, tuple(matches))
