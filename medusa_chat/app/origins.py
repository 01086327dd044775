"""A reply coloured by whose guess each token was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from textual.content import Content

from medusa_chat.app.conversation import Piece
from medusa_chat.printable import printable
from medusa_chat.records import BASE_ORIGIN, LOOKUP_ORIGIN, Chunk

_HEADS = ("$success", "$primary", "$warning", "$error", "$success 55%")
_LOOKUP = "$foreground 60% italic"


def pieces_of(chunks: Iterable[Chunk]) -> Iterator[Piece]:
    """The chunks' text, safe to show and cut by origin."""
    for chunk in chunks:
        start = 0
        for length, origin in chunk.spans:
            yield from _piece(chunk.text[start : start + length], origin)
            start += length
        yield from _piece(chunk.text[start:], None)


def _piece(text: str, origin: int | None) -> Iterator[Piece]:
    if safe := printable(text):
        yield safe, origin


def style_of(origin: int | None) -> str:
    """How text of this origin looks; heads past the fifth look as the fifth does."""
    if origin is None or origin == BASE_ORIGIN:
        return ""
    if origin == LOOKUP_ORIGIN:
        return _LOOKUP
    return _HEADS[min(origin, len(_HEADS)) - 1]


def coloured(pieces: Iterable[Piece]) -> Content:
    """The text in the colours of its origins."""
    return Content.assemble(*((text, style_of(origin)) for text, origin in pieces))


def letters_by_origin(pieces: Iterable[Piece]) -> Counter[int]:
    """How many are whose, of those of which that is known."""
    lengths: Counter[int] = Counter()
    for text, origin in pieces:
        if origin is not None:
            lengths[origin] += len(text)
    return lengths


def legend(lengths: Mapping[int, int]) -> Content:
    """What the colours mean, with each one's share of the characters."""
    total = max(sum(lengths.values()), 1)
    order = sorted(lengths, key=lambda origin: (origin == LOOKUP_ORIGIN, origin))
    return Content("  ").join(
        Content.assemble((f"{_name(origin)} {lengths[origin] / total:.0%}", style_of(origin)))
        for origin in order
    )


def _name(origin: int) -> str:
    return {BASE_ORIGIN: "base model", LOOKUP_ORIGIN: "looked up"}.get(origin, f"head {origin}")
