"""What the steps of a reply add up to: the figures of `say --json`, of `bench` and of the chat's panel."""

from __future__ import annotations

from collections import Counter

from medusa_chat.records import StepStats


class ReplyStatistics:
    """Sums over a reply's steps. The prefill counts towards the first token only: it is no decode step."""

    def __init__(self) -> None:
        self.completion_tokens = 0
        self.steps = 0
        self.decode_tokens = 0
        self.decode_seconds = 0.0
        self.drafts_offered = 0
        self.drafts_accepted = 0
        self._first_token_seconds = 0.0
        self._histogram: Counter[int] = Counter()
        self._asked: Counter[int] = Counter()  # head -> steps that it drafted for
        self._right: Counter[int] = Counter()  # head -> steps that kept a draft of it
        self._readings: list[tuple[float, int]] = []  # joules and tokens so far: the first and the last

    def add(self, step: StepStats) -> None:
        """Takes in one step, in the order they happened."""
        if self.completion_tokens == 0:
            self._first_token_seconds += step.seconds
        self.completion_tokens += step.num_tokens
        if step.joules is not None:
            self._readings = [*self._readings[:1], (step.joules, self.completion_tokens)]
        if step.num_nodes == 0:
            return
        self.steps += 1
        self.decode_tokens += step.num_tokens
        self.decode_seconds += step.seconds
        self._histogram[step.num_tokens] += 1
        self.drafts_offered += step.num_nodes - 1
        self.drafts_accepted += step.num_tokens - 1
        self._asked.update(range(1, step.head_depth + 1))
        self._right.update(range(1, step.heads_kept + 1))

    @property
    def tokens_per_step(self) -> float | None:
        """Tokens a decode step emitted on average; None before the first."""
        return self.decode_tokens / self.steps if self.steps else None

    @property
    def tokens_per_second(self) -> float | None:
        """Over decode steps; None before the first."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else None

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds of engine work up to the step that emitted the first token; None before it."""
        return self._first_token_seconds if self.completion_tokens else None

    @property
    def accepted_histogram(self) -> dict[int, int]:
        """Tokens emitted by a decode step -> how many steps did, in order of tokens."""
        return dict(sorted(self._histogram.items()))

    def hit_rate(self, head: int) -> float | None:
        """Of the steps that this head drafted for, the share that kept a draft of it; head 1 is the first.

        None before there is any.
        """
        return self._right[head] / self._asked[head] if self._asked[head] else None

    @property
    def joules_per_token(self) -> float | None:
        """Between the first and the last reading of the energy used; None before there are two."""
        if len(self._readings) < 2:
            return None
        (first_joules, first_tokens), (joules, tokens) = self._readings
        return (joules - first_joules) / (tokens - first_tokens) if tokens > first_tokens else None

    def speedup(self, plain_step_seconds: float | None) -> float | None:
        """Against plain decoding, which emits one token every plain_step_seconds; None if that is unknown.

        A plain step does less than any other, so it can't have taken longer than the steps of this reply:
        one that was timed while the machine was busier counts as long as those.
        """
        if plain_step_seconds is None or self.tokens_per_second is None or self.tokens_per_step is None:
            return None
        return min(self.tokens_per_second * plain_step_seconds, self.tokens_per_step)
