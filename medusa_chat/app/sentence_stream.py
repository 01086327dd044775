"""Text that streams, cut into lines that are worth being read aloud as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator

_END = re.compile(r"(?<!\d)[.!?…][\"'”’)*_]*\s+|[。！？]")
_FENCE = "```"


class SentenceStream:
    """Gives out whole lines, and of a long line in prose whole sentences: nothing has to be read twice."""

    def __init__(self) -> None:
        self._pending = ""
        self._in_code = False

    def feed(self, text: str) -> Iterator[str]:
        """Yields the lines that have become complete."""
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            self._in_code ^= line.lstrip().startswith(_FENCE)
            yield line
        while not self._in_code and (end := _END.search(self._pending)):
            sentence, self._pending = self._pending[: end.end()], self._pending[end.end() :]
            yield sentence.rstrip()

    def rest(self) -> Iterator[str]:
        """What was never completed, where there is any."""
        pending, self._pending = self._pending, ""
        if pending.strip():
            yield pending
