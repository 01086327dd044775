"""The figures of a reply as the panel shows them, and what its speed-up is measured against."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Mapping
from typing import Literal

from medusa_chat.records import StepStats
from medusa_chat.statistics import ReplyStatistics

_RECENT_STEPS = 64
_SECONDS_OF_NOW = 1.0
_STEPS_TO_TRUST = 4
_STEPS_REMEMBERED = 1024  # of any kind: what was decoded longer ago tells little of the machine now
_PLAIN_STEPS_REMEMBERED = 256
# Steps of a reply took up to 1.6 times what they took at load while plain ones took no longer.
_OTHER_PACE = 1.75

Origin = Literal["load", "quieter", "busier", "session"]


class PlainReference:
    """What plain steps of the model that is loaded take.

    A few steps are timed at load, perhaps on a busy machine: steps of this session that were decoded
    plainly, when there are enough of them, say better what drafting is up against.
    """

    def __init__(self, step_seconds: Mapping[int, float] | None = None) -> None:
        """step_seconds: draft size -> seconds of a step, timed at load."""
        self.at_load = dict(step_seconds or {})
        self._num_steps = 0
        self._plain: deque[tuple[int, float]] = deque(maxlen=_PLAIN_STEPS_REMEMBERED)  # number, seconds

    def add(self, step: StepStats) -> None:
        """A step of one node that isn't plain has asked the heads in vain, which takes its time."""
        self._num_steps += 1
        if step.is_plain:
            self._plain.append((self._num_steps, step.seconds))

    @property
    def seconds_in_session(self) -> float | None:
        """Of a plain step; None where too few of the last steps were."""
        since = self._num_steps - _STEPS_REMEMBERED
        lately = [seconds for number, seconds in self._plain if number > since]
        return statistics.median(lately) if len(lately) >= _STEPS_TO_TRUST else None


class ReplyMeter:
    """Takes in the steps of a reply that is asked for now. The speed is that since the last restart;
    reply_tokens and first_token_seconds are of the whole reply.
    """

    def __init__(self, plain: PlainReference | None = None) -> None:
        self.plain = plain or PlainReference()
        self.context_tokens: int | None = None  # until the engine has counted them
        self.num_nodes = 0
        self.reply_tokens = 0
        self.first_token_seconds: float | None = None
        self._asked_at = time.monotonic()
        self.restart()

    def restart(self) -> None:
        """Forgets the speed so far, when what it was measured with (drafting, the rule) has changed."""
        self.figures = ReplyStatistics()
        self.drafted = False
        self.recent: deque[int] = deque(maxlen=_RECENT_STEPS)
        self._now: deque[StepStats] = deque()
        self._seconds_of_now = 0.0
        self._seconds = self._seconds_at_load = 0.0  # of steps of sizes that were timed at load

    def add(self, step: StepStats) -> None:
        self.context_tokens = step.context_tokens
        self.reply_tokens += step.num_tokens
        if self.first_token_seconds is None and self.reply_tokens:
            self.first_token_seconds = time.monotonic() - self._asked_at
        self.figures.add(step)
        if step.num_nodes == 0:
            return
        self.num_nodes = step.num_nodes
        self.drafted = self.drafted or step.num_nodes > 1
        self.recent.append(step.num_tokens)
        self._keep_for_now(step)
        self.plain.add(step)
        if step.num_nodes in self.plain.at_load and (step.is_plain or step.num_nodes > 1):
            self._seconds += step.seconds
            self._seconds_at_load += self.plain.at_load[step.num_nodes]

    def _keep_for_now(self, step: StepStats) -> None:
        self._now.append(step)
        self._seconds_of_now += step.seconds
        while self._seconds_of_now - self._now[0].seconds >= _SECONDS_OF_NOW:
            self._seconds_of_now -= self._now.popleft().seconds

    @property
    def tokens_now(self) -> float | None:
        """Tokens per step over the last eight steps."""
        last = list(self.recent)[-8:]
        return sum(last) / len(last) if last else None

    @property
    def tokens_per_second_now(self) -> float | None:
        """Over the steps of the last second."""
        if not self._seconds_of_now:
            return None
        return sum(step.num_tokens for step in self._now) / self._seconds_of_now

    @property
    def pace(self) -> float:
        """How much longer steps of this reply take than steps of their sizes took at load."""
        return self._seconds / self._seconds_at_load if self._seconds_at_load else 1.0

    @property
    def plain_seconds(self) -> float | None:
        """Of one plain step; None if unknown."""
        in_session = self.plain.seconds_in_session
        return self.plain.at_load.get(1) if in_session is None else in_session

    @property
    def plain_origin(self) -> Origin:
        """When plain_seconds were timed; quieter, busier: at load, when the machine was clearly more so.

        Scaled by the pace they would not be true either: the more threads and work a step has, the more of
        the others' load it feels.
        """
        if self.plain.seconds_in_session is not None:
            return "session"
        if self.pace > _OTHER_PACE:
            return "quieter"
        return "load" if self.pace > 1 / _OTHER_PACE else "busier"

    @property
    def speedup(self) -> float | None:
        """Against plain decoding; None until both speeds are known, and for a reply decoded plainly."""
        return self.figures.speedup(self.plain_seconds) if self.drafted else None
