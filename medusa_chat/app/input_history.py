"""What the user has sent, brought back into the box by Up and Down."""

from __future__ import annotations

from collections.abc import Iterable


class InputHistory:
    """The texts sent, oldest first, and after them the one being typed.

    What is typed into one of them stays there while the user looks at others, and is forgotten when a text
    is sent: the past doesn't change.
    """

    def __init__(self) -> None:
        self._past: list[str] = []
        self._draft = ""
        self._edited: dict[int, str] = {}
        self._place: int | None = None  # of the text in the box; None: the one being typed

    def remember(self, texts: Iterable[str]) -> None:
        """Puts texts of earlier sessions, newest first, before those sent in this one."""
        sent = set(self._past)
        older = [text for text in texts if text.strip() and text not in sent][::-1]
        self._past[:0] = older
        self._edited = {place + len(older): text for place, text in self._edited.items()}
        if self._place is not None:
            self._place += len(older)

    def add(self, text: str) -> None:
        """A text that was sent. The same one twice in a row is kept once."""
        self.leave()
        if text.strip() and self._past[-1:] != [text]:
            self._past.append(text)

    def leave(self) -> None:
        """The box holds another text from now on: the one being typed."""
        self._place = None
        self._edited.clear()

    def older(self, now: str) -> str | None:
        """The text before the one in the box, which reads `now`; None if there is none."""
        place = len(self._past) if self._place is None else self._place
        return self._go_to(place - 1, now) if place > 0 else None

    def newer(self, now: str) -> str | None:
        """The text after the one in the box: at last the one being typed."""
        return None if self._place is None else self._go_to(self._place + 1, now)

    def _go_to(self, place: int, now: str) -> str:
        if self._place is None:
            self._draft = now
        else:
            self._edited[self._place] = now
        if place == len(self._past):
            self._place = None
            return self._draft
        self._place = place
        return self._edited.get(place, self._past[place])
