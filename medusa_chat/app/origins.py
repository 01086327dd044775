"""A reply coloured by whose guess each token was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from textual.content import Content

from medusa_chat.app.conversation import Piece
from medusa_chat.printable import printable
from medusa_chat.records import BASE_ORIGIN, LOOKUP_ORIGIN, Chunk

_HEADS = ("$success", "$primary", "$warning", "$error", "$success 55%")
_LOOKUP = "$foreground 60% italic"


def pieces_of(chunks: Iterable[Chunk]) -> Iterator[Piece]:
    """The chunks' text, cut by origin."""
    for chunk in chunks:
        start = 0
        for length, origin in chunk.spans:
            yield printable(chunk.text[start : start + length]), origin
            start += length


def style_of(origin: int) -> str:
    """How text of this origin looks; heads past the fifth look as the fifth does."""
    if origin == BASE_ORIGIN:
        return ""
    if origin == LOOKUP_ORIGIN:
        return _LOOKUP
    return _HEADS[min(origin, len(_HEADS)) - 1]


def coloured(pieces: Iterable[Piece]) -> Content:
    """The text in the colours of its origins."""
    return Content.assemble(*((text, style_of(origin)) for text, origin in pieces))


def legend(pieces: Sequence[Piece]) -> Content:
    """What the colours of these pieces mean, with each one's share of the characters."""
    lengths: dict[int, int] = {}
    for text, origin in pieces:
        lengths[origin] = lengths.get(origin, 0) + len(text)
    total = max(sum(lengths.values()), 1)
    order = sorted(lengths, key=lambda origin: (origin == LOOKUP_ORIGIN, origin))
    return Content("  ").join(
        Content.assemble((f"{_name(origin)} {lengths[origin] / total:.0%}", style_of(origin)))
        for origin in order
    )


def _name(origin: int) -> str:
    return {BASE_ORIGIN: "base model", LOOKUP_ORIGIN: "looked up"}.get(origin, f"head {origin}")
