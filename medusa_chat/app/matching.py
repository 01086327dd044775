"""How well a name fits what has been typed of it."""

from __future__ import annotations

from typing import Literal

Closeness = Literal[0, 1]


def closeness(typed: str, name: str) -> Closeness | None:
    """0: the name begins so. 1: the letters come in it in this order. None: they don't. Case is ignored."""
    typed, name = typed.lower(), name.lower()
    if name.startswith(typed):
        return 0
    place = 0
    for letter in typed:
        place = name.find(letter, place) + 1
        if not place:
            return None
    return 1
