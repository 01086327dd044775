"""Names of files written in a message: @notes.txt, or @"my notes.txt" where there are spaces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Only after a space or an opening bracket: the @ of an e-mail address is none.
_BEGIN = r"(?<![^\s(\[{<])@"
_WORD = re.compile(rf'{_BEGIN}(?:"([^"\n]+)"|([^\s"]\S*))')
_UNFINISHED = re.compile(rf'{_BEGIN}(?:"([^"\n]*)|([^\s"]\S*)?)$')
_TRAILING = ".,;:!?)]}>'\""


@dataclass(frozen=True, slots=True)
class AtWord:
    """One in a text, from start to end. names: what it may mean, the likeliest first: without quotes, the
    full stop or bracket after a name may belong to the sentence.
    """

    start: int
    end: int
    names: tuple[str, ...]


def find_at_words(text: str) -> Iterator[AtWord]:
    """All of them, in order."""
    for match in _WORD.finditer(text):
        quoted, bare = match.groups()
        yield AtWord(match.start(), match.end(), (quoted,) if quoted else tuple(_shortened(bare)))


def _shortened(name: str) -> Iterator[str]:
    shortest = len(name.rstrip(_TRAILING))
    for length in range(len(name), shortest - 1 if shortest else len(name) - 1, -1):
        yield name[:length]


def unfinished_at_word(left: str) -> tuple[int, str] | None:
    """Where the word begins that ends at the cursor, with the text left of it, and the name so far."""
    match = _UNFINISHED.search(left)
    return match and (match.start(), match[1] or match[2] or "")


def written_at_word(name: str) -> str | None:
    """The word for a name, ended by a space unless it is a folder; None if it can't be written."""
    is_folder = name.endswith("/")
    if re.search(r'\s|^"', name):
        return None if '"' in name else f'@"{name}' + ("" if is_folder else '" ')
    return f"@{name}" + ("" if is_folder else " ")
