"""How large a draft tree pays on this machine: measured step times against expected tokens per step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice

from medusa_chat.decoding.generate import Context, generate
from medusa_chat.decoding.planning import TREE_SIZES, Plan
from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.records import SamplingOptions

_WORST_COST = (
    2.5  # plain steps: drafts that bring more are rare, and a laptop takes long to time a larger one
)
_PROMPT_LENGTH = 64
_NUM_TIMED = 3


def measure_sizes(measure: Callable[[int], float], largest: int) -> dict[int, float]:
    """Draft size -> seconds of a step, from 1 (plain decoding) up to the first size whose step costs more
    than it can bring.
    """
    step_seconds: dict[int, float] = {}
    for size in TREE_SIZES:
        if size > largest or (
            step_seconds and step_seconds[max(step_seconds)] > _WORST_COST * step_seconds[1]
        ):
            break
        step_seconds[size] = measure(size)
    return step_seconds


def measure_step(base: BaseModel, heads: MedusaHeads | None, context: Context, plan: Plan) -> float:
    """Seconds of one whole step (draft, verify, accept, commit) with this plan at a short context.

    The fastest of a few: what slows a step down besides is other programs.
    """
    # Drafting at ids no text would hold costs what any other does; what is accepted doesn't matter here.
    prompt_ids = [(i * 7919) % base.vocab_size for i in range(_PROMPT_LENGTH)]
    options = SamplingOptions(temperature=0.0)
    steps = generate(base, heads, context, prompt_ids, lambda: options, lambda _: plan)
    # The prefill and a first step, which may still compile or allocate, are not timed.
    return min(step.seconds for step in islice(steps, 2, 2 + _NUM_TIMED))


def choose_tree_size(step_seconds: Mapping[int, float], expected: Mapping[int, float]) -> int:
    """The size of most expected tokens per second; 1, plain decoding, if drafting doesn't pay."""
    return max(step_seconds, key=lambda size: expected[size] / step_seconds[size])
