"""How a step drafts: from what, and how many nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from medusa_chat.decoding import proposing
from medusa_chat.decoding.draft import Candidates, Draft, Pool, draft_best, make_pool, rank_guesses
from medusa_chat.decoding.growth import Growth
from medusa_chat.decoding.lookup import look_up
from medusa_chat.decoding.proposing import propose_static
from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads

TREE_SIZES = (1, 4, 8, 16, 32, 64)
# How fast the chooser forgets: what lies fifty steps back counts a third; of pools, ten steps.
_MEMORY = 0.98
_POOL_MEMORY = 0.9
# Hoped and kept tokens that every step brings in besides its own, so that heads once given up get new trials.
_TRUST = 0.005
_FIRST_TRUST = 4.0
_LONGEST_REST = 32


class SizeChooser:
    """Chooses the number of nodes of each step, for most tokens per second.

    A pool says how many tokens to expect of each size; how far that was true before corrects it. Where not
    even the best size pays, it chooses 1, and rests before the heads are asked again: for one step, then two,
    four, up to 32.

    On replies recorded from the default model, choosing at each step did as well as the best size for all
    steps, known beforehand, or better by up to 8%; choosing ahead did as well.
    """

    def __init__(self, expected: Mapping[int, float]) -> None:
        """expected: size -> tokens to expect of a step, before any pool was seen."""
        self._average = dict(expected)
        self._hoped = self._kept = _FIRST_TRUST
        self._rest = self._num_rests = 0
        self._is_resting = False

    @property
    def trust(self) -> float:
        """Drafts kept for each one hoped for."""
        return self._kept / self._hoped

    def is_resting(self) -> bool:
        """Whether this step should draft from no heads. Asked once a step."""
        self._is_resting = self._rest > 0
        self._rest = max(0, self._rest - 1)
        return self._is_resting

    def choose(self, expected: Mapping[int, float], step_seconds: Mapping[int, float]) -> int:
        """For the step of this pool. expected: size -> tokens to expect of it. step_seconds: size -> seconds
        of a step; 1 is among them.
        """
        size = self._best(expected, step_seconds)
        if not self._is_resting:
            self._rest_after(size)
        return size

    def choose_ahead(self, step_seconds: Mapping[int, float]) -> int:
        """For a step whose pool nobody has seen yet: by the pools seen before. At the end of a rest it is the
        smallest draft, so that there is one to see.
        """
        size = self._best(self._average, step_seconds)
        if size == 1 and self.is_resting():
            return 1
        self._rest_after(size)
        return size if size > 1 else min(set(step_seconds) - {1}, default=1)

    def see(self, expected: Mapping[int, float]) -> None:
        """Of a pool: size -> tokens to expect."""
        for size, tokens in expected.items():
            self._average[size] = _POOL_MEMORY * self._average[size] + (1 - _POOL_MEMORY) * tokens

    def observe(self, expected: float, num_tokens: int) -> None:
        """expected: of the draft that was verified, 1 if it was the root alone; num_tokens: it brought."""
        self._hoped = _MEMORY * self._hoped + (expected - 1) + _TRUST
        self._kept = _MEMORY * self._kept + (num_tokens - 1) + _TRUST

    def _best(self, expected: Mapping[int, float], step_seconds: Mapping[int, float]) -> int:
        return max(
            step_seconds, key=lambda size: (1 + self.trust * (expected[size] - 1)) / step_seconds[size]
        )

    def _rest_after(self, size: int) -> None:
        if size > 1:
            self._num_rests = 0
            return
        self._rest = min(2**self._num_rests, _LONGEST_REST)
        self._num_rests += 1


@dataclass(frozen=True, slots=True)
class Plan:
    """candidates: what a step's draft may hold. size: how many of the pool's best it takes, or what tells
    that from the pool; None: all candidates, a static tree. Of one candidate, the root, it is plain decoding.
    most: nodes that it may take.
    """

    candidates: Candidates | Growth
    size: int | Callable[[Pool], int] | None = None
    most: int | None = None


def plain_plan(device: torch.device | str = "cpu") -> Plan:
    return Plan(Candidates([], device))


def fixed_plan(candidates: Candidates | Growth, num_nodes: int) -> Plan:
    """At each step the num_nodes likeliest candidates, or all; of one node, plain decoding."""
    if num_nodes == 1:
        return plain_plan(candidates.depths.device)
    num_nodes = min(num_nodes, len(candidates))
    return Plan(candidates, num_nodes, num_nodes)


def propose(
    plan: Plan,
    base: BaseModel,
    heads: MedusaHeads | None,
    hidden: torch.Tensor,
    text: torch.Tensor,
) -> tuple[Draft, float | None]:
    """hidden (1, D): of the last token before the root. text (T + 1,) int64: the conversation, the root its
    last token. Returns the draft and the tokens to expect of it, if the plan can tell.
    """
    frame, root = plan.candidates, text[-1]
    if plan.size is None:
        assert isinstance(frame, Candidates)
        return propose_static(frame, base, heads, hidden, root, rank_guesses), None
    weighed = proposing.propose(frame, base, heads, hidden, root, rank_guesses, plan.most)
    chain = None
    if len(frame.chain) > 0:
        chain = look_up(text, torch.tensor(len(text), device=text.device))
    pool = make_pool(frame, weighed, chain)
    num_nodes = plan.size if isinstance(plan.size, int) else plan.size(pool)
    return draft_best(pool, frame, num_nodes), float(pool.expected[num_nodes - 1])
