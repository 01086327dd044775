"""What a model will take of a machine's memory, part by part, told before anything is loaded; and the longest
context that fits beside it. No torch here: the app asks as well.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

from medusa_chat.decoder_memory import SPARE_ROWS, decoder_of
from medusa_chat.errors import OutOfMemory
from medusa_chat.machine import Memory
from medusa_chat.model_sizes import HeadSizes, ModelSizes
from medusa_chat.quantities import size
from medusa_chat.records import MIN_CONTEXT_LENGTH, KVPrecision, LMHeadPrecision, Quantization

STEP = 256  # tokens to which the length of a context is rounded
LEAST_COMFORT = 1024  # tokens; a shorter context is only taken if it is asked for
# What this program takes before it computes anything: of a GPU the driver's part, of a host's memory Python
# and its libraries. Then what the driver takes for kernels and graphs.
STARTED: Mapping[str, int] = {"cuda": 520_000_000, "cpu": 280_000_000}
_GPU_KERNELS = 200_000_000

_USABLE = 0.97  # of what is free: allocators leave gaps, and others want memory too
_MOST_UNKNOWN = 300_000_000  # workspace, of a model of which only the number of weights is known


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by part, for context_length tokens. workspace: all that a step or a prompt needs besides.
    program: what it takes itself, a GPU's driver included. loading: weights and heads while they are loaded.
    """

    context_length: int
    weights: int
    heads: int
    cache: int
    workspace: int
    program: int
    loading: int

    @property
    def total(self) -> int:
        return self.weights + self.heads + self.cache + self.workspace + self.program

    @property
    def peak(self) -> int:
        """The most that is taken at any time."""
        return max(self.total, self.loading + self.program)


def plan_memory(
    model: ModelSizes,
    heads: HeadSizes | None,
    quantization: Quantization,
    memory: Memory,
    context_length: int,
    kv_cache: KVPrecision = "full",
    lm_head: LMHeadPrecision = "full",
) -> MemoryPlan:
    """For a context of this length on this device."""
    decoder = decoder_of(model, memory, kv_cache, lm_head)
    weights = decoder.weights(quantization) + decoder.table(context_length)
    held_heads = 0 if heads is None else decoder.heads(heads, quantization)
    return MemoryPlan(
        context_length=context_length,
        weights=weights,
        heads=held_heads,
        cache=(context_length + SPARE_ROWS) * decoder.kv_bytes,
        workspace=decoder.workspace(context_length) if model.hidden else min(weights // 8, _MOST_UNKNOWN),
        program=STARTED[memory.device] + (_GPU_KERNELS if memory.device == "cuda" else 0),
        loading=weights + held_heads + decoder.packing(quantization),
    )


def longest_fitting(
    model: ModelSizes,
    heads: HeadSizes | None,
    quantization: Quantization,
    memory: Memory,
    free: int,
    kv_cache: KVPrecision = "full",
    lm_head: LMHeadPrecision = "full",
) -> MemoryPlan | None:
    """With the model's own context if it fits into so many bytes, else with the longest that does; None if
    not even MIN_CONTEXT_LENGTH tokens do.
    """
    own = model.context or LEAST_COMFORT
    lengths = [*range(MIN_CONTEXT_LENGTH, own, STEP), own]
    planned = partial(plan_memory, model, heads, quantization, memory, kv_cache=kv_cache, lm_head=lm_head)
    fitting = bisect_right(lengths, int(_USABLE * free), key=lambda length: planned(length).peak)
    return planned(lengths[fitting - 1]) if fitting else None


def is_comfortable(plan: MemoryPlan | None, model: ModelSizes) -> bool:
    """Whether a context is long enough to be taken without being asked for."""
    return plan is not None and plan.context_length >= min(LEAST_COMFORT, model.context or LEAST_COMFORT)


def choose_plan(
    name: str,
    model: ModelSizes,
    heads: HeadSizes | None,
    quantization: Quantization,
    memory: Memory,
    asked: int | None,
    kv_cache: KVPrecision = "full",
    lm_head: LMHeadPrecision = "full",
) -> MemoryPlan:
    """With the context asked for, but at most the model's own; where none is, with the longest that fits.

    Raises OutOfMemory, which says what would fit, if that doesn't or is too short to be of use.
    """
    longest = longest_fitting(model, heads, quantization, memory, memory.free, kv_cache, lm_head)
    if asked is None and longest is not None and is_comfortable(longest, model):
        return longest
    wanted = min(asked or LEAST_COMFORT, model.context or LEAST_COMFORT)
    planned = partial(plan_memory, model, heads, memory=memory, context_length=wanted, lm_head=lm_head)
    plan = planned(quantization, kv_cache=kv_cache)
    if asked is not None and plan.peak <= _USABLE * memory.free:
        return plan
    advice = [
        f"--quant {kind}"
        for kind in _smaller(quantization)
        if planned(kind, kv_cache=kv_cache).peak <= _USABLE * memory.free
    ][:1]
    if kv_cache == "full" and planned(quantization, kv_cache="8bit").peak <= _USABLE * memory.free:
        advice.append("--kv-cache 8bit")
    advice += [f"--context {longest.context_length}"] if longest is not None else []
    raise OutOfMemory(
        f"{name} {_HELD[quantization]} needs {size(round(plan.peak / _USABLE))} with {wanted:,} tokens of "
        f"context, and {size(memory.free)} are free. {_sentence(advice, memory)}"
    )


_HELD: Mapping[Quantization, str] = {"4bit": "in 4 bits", "8bit": "in 8 bits", "none": "unquantised"}


def _smaller(quantization: Quantization) -> list[Quantization]:
    """Those below it, widest first."""
    kinds: tuple[Quantization, ...] = get_args(Quantization)
    return list(reversed(kinds[: kinds.index(quantization)]))


def _sentence(advice: Sequence[str], memory: Memory) -> str:
    if advice:
        *others, last = advice
        return f"Try {', '.join(others)} or {last}." if others else f"Try {last}."
    elsewhere = ", use --device cpu" if memory.device == "cuda" else ""
    return f"Free some memory{elsewhere} or choose a smaller model."
