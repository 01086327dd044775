"""Whose guess each character of a reply was, from when it is decoded until it is shown."""

from __future__ import annotations

from collections import deque

Span = tuple[int, int]  # number of characters, origin


class SpanQueue:
    """Text goes in as tokens complete it and comes out as it is shown, in the same order: what is held back
    for a stop string keeps its origins. A character made of several tokens is that of the last of them.
    """

    def __init__(self) -> None:
        self._spans: deque[Span] = deque()

    def add(self, num_characters: int, origin: int) -> None:
        """Of the text that one token completed, perhaps none."""
        if num_characters:
            self._spans.append((num_characters, origin))

    def take(self, num_characters: int) -> tuple[Span, ...]:
        """Those of the next characters, neighbours of one origin as one span."""
        taken: list[Span] = []
        while num_characters:
            length, origin = self._spans.popleft()
            if length > num_characters:
                self._spans.appendleft((length - num_characters, origin))
                length = num_characters
            num_characters -= length
            if taken and taken[-1][1] == origin:
                length += taken.pop()[0]
            taken.append((length, origin))
        return tuple(taken)
