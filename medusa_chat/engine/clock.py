"""What a load's seconds go into."""

from __future__ import annotations

import time


class LoadClock:
    """seconds: of each part that has ended, by its name, from the making of the clock on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def end(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part], self._since = now - self._since, now
