"""The figures of a reply, from its steps."""

from __future__ import annotations

from collections import Counter, deque

from medusa_chat.records import StepStats

_RECENT_STEPS = 64


class ReplyMeter:
    """Adds up steps. plain_seconds: measured time of one plain step on this machine, if known.

    The prefill (num_nodes 0) counts for the context only: it is the same with and without drafting.
    """

    def __init__(self, plain_seconds: float | None = None) -> None:
        self._plain_seconds = plain_seconds
        self.context_tokens = 0
        self.num_nodes = 0
        self.reply_tokens = 0
        self.restart()

    def restart(self) -> None:
        """Forgets the speed so far, when what it was measured with (drafting, the rule) has changed."""
        self.num_tokens = 0
        self.num_steps = 0
        self.drafted = False
        self.seconds = 0.0
        self.histogram: Counter[int] = Counter()
        self.recent: deque[int] = deque(maxlen=_RECENT_STEPS)

    def add(self, step: StepStats) -> None:
        self.context_tokens = step.context_tokens
        self.reply_tokens += step.num_tokens
        if step.num_nodes == 0:
            return
        self.num_nodes = step.num_nodes
        self.drafted = self.drafted or step.num_nodes > 1
        self.num_steps += 1
        self.num_tokens += step.num_tokens
        self.seconds += step.seconds
        self.histogram[step.num_tokens] += 1
        self.recent.append(step.num_tokens)

    @property
    def tokens_per_second(self) -> float | None:
        return self.num_tokens / self.seconds if self.seconds > 0 else None

    @property
    def tokens_per_step(self) -> float | None:
        return self.num_tokens / self.num_steps if self.num_steps else None

    @property
    def tokens_now(self) -> float | None:
        """Tokens per step over the last eight steps."""
        last = list(self.recent)[-8:]
        return sum(last) / len(last) if last else None

    @property
    def speedup(self) -> float | None:
        """Tokens per second over what plain decoding makes here; None until both are known."""
        if self._plain_seconds is None or self.tokens_per_second is None or not self.drafted:
            return None
        return self.tokens_per_second * self._plain_seconds
