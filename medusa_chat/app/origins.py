"""A reply coloured by whose guess each token was."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from medusa_chat.records import BASE_ORIGIN, LOOKUP_ORIGIN

Piece = tuple[str, int]  # printable text and its origin
_HEADS = ("$success", "$primary", "$warning", "$accent", "$error")
_LOOKUP = "$secondary italic"


def style_of(origin: int) -> str:
    """How text of this origin looks; heads past the fifth look as the fifth does."""
    if origin == BASE_ORIGIN:
        return ""
    if origin == LOOKUP_ORIGIN:
        return _LOOKUP
    return _HEADS[min(origin, len(_HEADS)) - 1]


def coloured(pieces: Sequence[Piece]) -> Content:
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
