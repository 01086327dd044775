"""The download under way, if any: it goes on whichever screen is shown, and tells whoever listens."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Literal

from textual.dom import DOMNode
from textual.signal import Signal

from medusa_chat.checkpoints.pull_process import PullProcess
from medusa_chat.errors import MedusaError
from medusa_chat.records import LoadProgress

_SECONDS_BETWEEN_NEWS = 0.1
_SECONDS_OF_RATE = 5.0
_STARTING = LoadProgress("Starting")


@dataclass(frozen=True, slots=True)
class Pull:
    """model, heads: as asked for. rate: bytes a second, while it is known. error: why it failed."""

    model: str
    heads: str | None = None
    progress: LoadProgress = _STARTING
    rate: float | None = None
    outcome: Literal["running", "done", "failed", "cancelled"] = "running"
    error: str | None = None

    @property
    def seconds_left(self) -> float | None:
        """At the rate of the last moments."""
        progress = self.progress
        if not self.rate or progress.fraction is None or progress.num_bytes is None:
            return None
        return (1 - progress.fraction) * progress.num_bytes / self.rate


class Pulls:
    """One at a time. `changed` is published on each step of the latest one, ten times a second at most."""

    def __init__(self, owner: DOMNode) -> None:
        self.changed: Signal[Pull] = Signal(owner, "pull changed")
        self.latest: Pull | None = None
        self._process: PullProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._news: asyncio.TimerHandle | None = None

    @property
    def running(self) -> Pull | None:
        """The one under way."""
        return self.latest if self.latest is not None and self.latest.outcome == "running" else None

    def start(self, model: str, heads: str | None = None) -> None:
        """Fetches a model and its heads, or those heads. Only while none is running."""
        assert self.running is None
        self._process = PullProcess(model, heads)
        self._tell(Pull(model, heads))
        self._task = asyncio.create_task(self._run(self._process))

    def cancel(self) -> None:
        """What is here stays, and the next one goes on from it."""
        if self.running is not None and self._process is not None:
            self._process.cancel()

    async def close(self) -> None:
        """Ends the one under way with all its processes."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self, process: PullProcess) -> None:
        speedometer = Speedometer()
        try:
            async for progress in process.run():
                assert self.latest is not None
                rate = speedometer.rate(progress, time.monotonic())
                self._tell_soon(replace(self.latest, progress=progress, rate=rate))
        except MedusaError as error:
            self._end("failed", str(error))
        else:
            self._end("cancelled" if process.is_cancelled else "done")

    def _end(self, outcome: Literal["done", "failed", "cancelled"], error: str | None = None) -> None:
        assert self.latest is not None
        self._tell(replace(self.latest, outcome=outcome, error=error))

    def _tell_soon(self, pull: Pull) -> None:
        self.latest = pull
        if self._news is None:
            loop = asyncio.get_running_loop()
            self._news = loop.call_later(_SECONDS_BETWEEN_NEWS, self._tell_latest)

    def _tell(self, pull: Pull) -> None:
        self.latest = pull
        self._tell_latest()

    def _tell_latest(self) -> None:
        if self._news is not None:
            self._news.cancel()
            self._news = None
        if self.latest is not None:
            self.changed.publish(self.latest)


class Speedometer:
    """Bytes a second over the last moments of one download; of another it begins anew."""

    def __init__(self) -> None:
        self._message: str | None = None
        self._samples: deque[tuple[float, float]] = deque()  # when, and bytes that were here

    def rate(self, progress: LoadProgress, now: float) -> float | None:
        """With this sample taken in; None until there are two."""
        if progress.fraction is None or progress.num_bytes is None or progress.message != self._message:
            self._message = progress.message
            self._samples.clear()
        if progress.fraction is None or progress.num_bytes is None:
            return None
        self._samples.append((now, progress.fraction * progress.num_bytes))
        while len(self._samples) > 2 and self._samples[1][0] < now - _SECONDS_OF_RATE:
            self._samples.popleft()
        (first, here_then), (last, here_now) = self._samples[0], self._samples[-1]
        return (here_now - here_then) / (last - first) if last > first else None
