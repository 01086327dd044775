"""How large a draft tree pays on this machine: measured step times against expected tokens per step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice

from medusa_chat.decoding.draft import Candidates
from medusa_chat.decoding.generate import Context, generate
from medusa_chat.decoding.tree import PathProbability, Tree, expected_tokens
from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.records import SamplingOptions

TREE_SIZES = (1, 4, 8, 16, 32, 64)
_PROMPT_LENGTH = 64
_NUM_TIMED = 3


def measure_sizes(
    measure: Callable[[Tree], float], tree_of: Callable[[int], Tree], path_probability: PathProbability
) -> dict[int, float]:
    """Tree size -> seconds of a step, from 1 (plain decoding) up to the first size that pays less than one
    before it by a tenth: larger ones pay less still, and a laptop takes long to find that out.
    """
    step_seconds: dict[int, float] = {}
    best = 0.0
    for size in TREE_SIZES if path_probability else TREE_SIZES[:1]:
        tree = tree_of(size)
        step_seconds[size] = measure(tree)
        rate = expected_tokens(tree, path_probability) / step_seconds[size]
        if rate < 0.9 * best and size > TREE_SIZES[1]:
            break
        best = max(best, rate)
    return step_seconds


def measure_step(base: BaseModel, heads: MedusaHeads | None, candidates: Candidates) -> float:
    """Seconds of one whole step (draft, verify, accept, commit) with this draft at a short context.

    The fastest of a few: what slows a step down besides is other programs.
    """
    # Drafting at ids no text would hold costs what any other does; what is accepted doesn't matter here.
    prompt_ids = [(i * 7919) % base.vocab_size for i in range(_PROMPT_LENGTH)]
    options = SamplingOptions(temperature=0.0)
    steps = generate(
        base, heads, Context(base.new_cache()), prompt_ids, lambda: options, lambda _: candidates
    )
    # The prefill and a first step, which may still compile or allocate, are not timed.
    return min(step.seconds for step in islice(steps, 2, 2 + _NUM_TIMED))


def choose_tree_size(step_seconds: Mapping[int, float], expected: Mapping[int, float]) -> int:
    """The size of most expected tokens per second; 1, plain decoding, if drafting doesn't pay."""
    return max(step_seconds, key=lambda size: expected[size] / step_seconds[size])
