"""How an option's value is read from text, written, and moved by a key."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medusa_chat.printable import printable


class Scale:
    """wanted: what may be typed, as it goes on after "takes". choices: all of it, where it is a few words."""

    wanted: str
    choices: tuple[str, ...] = ()

    def read(self, text: str) -> Any:
        """Raises ValueError if it isn't what is wanted. Whether it is in range its record knows."""
        raise NotImplementedError

    def show(self, value: Any) -> str:
        """In as few characters as can be read again."""
        raise NotImplementedError

    def caution(self, value: Any) -> str | None:
        """A word on what choosing it costs, if it does."""
        return None

    def step(self, value: Any, notches: int) -> Any:
        """The value that many notches up or, below 0, down; at an end it stays there."""
        raise NotImplementedError

    def share(self, value: Any) -> float | None:
        """How far along the scale it lies, 0 to 1; None where that would mean nothing."""
        return None

    def at(self, share: float) -> Any:
        """The notch that lies so far along."""
        raise NotImplementedError


class Numbers(Scale):
    """Numbers, whole or not as the notches are; anything between them can be typed.

    word: what one value is called, as 0 is "off". Its value lies above all others if it is the last notch.
    """

    def __init__(
        self,
        notches: Sequence[float | None],
        wanted: str,
        word: tuple[str, float | None] | None = None,
        *,
        slides: bool = True,
    ) -> None:
        self.wanted = wanted
        self._notches = notches
        self._word = word
        self._slides = slides
        self._number: Callable[[str], float] = type(next(n for n in notches if n))
        self._end = float("inf") if word is not None and notches[-1] == word[1] else float("-inf")
        self._ranks = [self._rank(notch) for notch in notches]

    def read(self, text: str) -> Any:
        return self._word[1] if self._word and text == self._word[0] else self._number(text)

    def show(self, value: Any) -> str:
        return self._word[0] if self._word and value == self._word[1] else f"{value:.12g}"

    def step(self, value: Any, notches: int) -> Any:
        rank = self._rank(value)
        if notches > 0:
            place = bisect_right(self._ranks, rank) + notches - 1
        else:
            place = bisect_left(self._ranks, rank) + notches
        return self._notches[min(max(place, 0), len(self._notches) - 1)]

    def share(self, value: Any) -> float | None:
        if not self._slides:
            return None
        return min(bisect_left(self._ranks, self._rank(value)) / (len(self._notches) - 1), 1.0)

    def at(self, share: float) -> Any:
        return self._notches[round(share * (len(self._notches) - 1))]

    def _rank(self, value: float | None) -> float:
        is_word = self._word is not None and value == self._word[1]
        return self._end if is_word or value is None else value


class Choice(Scale):
    """One of a few words, each for a value. cautions: words on some of those values."""

    def __init__(self, values: Mapping[str, Any], cautions: Mapping[Any, str] | None = None) -> None:
        self._values = values
        self._cautions = cautions or {}
        self.choices = tuple(values)
        self.wanted = f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"

    def read(self, text: str) -> Any:
        if text not in self._values:
            raise ValueError
        return self._values[text]

    def show(self, value: Any) -> str:
        return next((word for word, known in self._values.items() if known == value), str(value))

    def caution(self, value: Any) -> str | None:
        return self._cautions.get(value)

    def step(self, value: Any, notches: int) -> Any:
        """Round and round, one at a time."""
        values = list(self._values.values())
        if value not in values:
            return values[0]
        return values[(values.index(value) + (1 if notches > 0 else -1)) % len(values)]


class Trees(Choice):
    """Names of draft trees, or a file of one. What stands in that the engine looks at."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__({name: name for name in names})
        self.wanted += "; or a file of paths"

    def read(self, text: str) -> Any:
        try:
            return super().read(text)
        except ValueError:
            if not Path(text).expanduser().is_file():
                raise
            return text


class Text(Scale):
    """Anything, or nothing."""

    _NOTHING = "none"
    wanted = "a text, or none"

    def read(self, text: str) -> Any:
        return None if text.strip() in ("", self._NOTHING) else printable(text).strip()

    def show(self, value: Any) -> str:
        return value or self._NOTHING

    def step(self, value: Any, notches: int) -> Any:
        return value
