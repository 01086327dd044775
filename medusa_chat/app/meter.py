"""The figures of a reply as the panel shows them, and what its speed-up is measured against."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Literal

from medusa_chat.records import StepStats
from medusa_chat.statistics import ReplyStatistics

_RECENT_STEPS = 64
_STEPS_TO_TRUST = 16
_STEPS_REMEMBERED = 256


class PlainReference:
    """Seconds of one plain step of the model that is loaded; None while unknown.

    A few steps are timed at load, perhaps on a busy machine: steps of this session that were decoded
    plainly, when there are enough of them, say better what drafting is up against.
    """

    def __init__(self, seconds_at_load: float | None = None) -> None:
        self._seconds_at_load = seconds_at_load
        self._observed: deque[float] = deque(maxlen=_STEPS_REMEMBERED)

    def add(self, step: StepStats) -> None:
        if step.num_nodes == 1:
            self._observed.append(step.seconds)

    @property
    def origin(self) -> Literal["load", "session"]:
        return "session" if len(self._observed) >= _STEPS_TO_TRUST else "load"

    @property
    def seconds(self) -> float | None:
        return statistics.median(self._observed) if self.origin == "session" else self._seconds_at_load


class ReplyMeter:
    """Takes in steps. The speed is that since the last restart; reply_tokens is of the whole reply."""

    def __init__(self, plain: PlainReference | None = None) -> None:
        self.plain = plain or PlainReference()
        self.context_tokens = 0
        self.num_nodes = 0
        self.reply_tokens = 0
        self.restart()

    def restart(self) -> None:
        """Forgets the speed so far, when what it was measured with (drafting, the rule) has changed."""
        self.figures = ReplyStatistics()
        self.drafted = False
        self.recent: deque[int] = deque(maxlen=_RECENT_STEPS)

    def add(self, step: StepStats) -> None:
        self.context_tokens = step.context_tokens
        self.reply_tokens += step.num_tokens
        self.figures.add(step)
        self.plain.add(step)
        if step.num_nodes == 0:
            return
        self.num_nodes = step.num_nodes
        self.drafted = self.drafted or step.num_nodes > 1
        self.recent.append(step.num_tokens)

    @property
    def tokens_now(self) -> float | None:
        """Tokens per step over the last eight steps."""
        last = list(self.recent)[-8:]
        return sum(last) / len(last) if last else None

    @property
    def speedup(self) -> float | None:
        """Against plain decoding; None until both speeds are known, and for a reply decoded plainly."""
        return self.figures.speedup(self.plain.seconds) if self.drafted else None
