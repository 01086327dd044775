"""Searching in scripts written without spaces, where FTS5 takes a whole sentence for one word."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medusa_chat.history.excerpts import Excerpt
from medusa_chat.printable import printable

# Thai to Myanmar, Khmer, kana and Chinese characters with their extensions.
_UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_EXCERPT_LENGTH = 60


def has_unspaced(words: Sequence[str]) -> bool:
    """Whether any of them is in such a script."""
    return any(_UNSPACED.search(word) for word in words)


def holds_all(column: str, words: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """An SQL condition, and its values: the column's text holds every word, wherever it stands."""
    patterns = tuple("%" + re.sub(r"([\\%_])", r"\\\1", word) + "%" for word in words)
    return " AND ".join([f"{column} LIKE ? ESCAPE '\\'"] * len(words)), patterns


def excerpt_around(text: str, words: Sequence[str]) -> Excerpt:
    """The part of the text where the first of the words stands."""
    line = " ".join(printable(text).split())
    wanted = re.compile("|".join(map(re.escape, words)), re.IGNORECASE)
    return Excerpt(line, tuple(match.span() for match in wanted.finditer(line))).around_first_match(
        _EXCERPT_LENGTH
    )
