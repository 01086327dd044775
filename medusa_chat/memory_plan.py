"""What a model will take of a machine's memory, part by part, told before anything is loaded; and the longest
context that fits beside it. No torch here: the app asks as well.

Parts are counted from the shapes in the files' headers where there are any, as the decoders hold them: on a
GPU those of model/fused.py, on a CPU those of model/lean.py, else transformers' own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

from medusa_chat.errors import OutOfMemory
from medusa_chat.footprint import HALF, matrix_bytes
from medusa_chat.machine import Memory
from medusa_chat.model_sizes import HeadSizes, ModelSizes
from medusa_chat.quantities import size
from medusa_chat.records import MIN_CONTEXT_LENGTH, Quantization

STEP = 256  # tokens to which the length of a context is rounded
LEAST_COMFORT = 1024  # tokens; a shorter context is only taken if it is asked for
# What this program takes before it computes anything: of a GPU the driver's part, of a host's memory Python
# and its libraries. Then what the driver takes for kernels and graphs.
STARTED: Mapping[str, int] = {"cuda": 470_000_000, "cpu": 280_000_000}
_GPU_KERNELS = 90_000_000

_USABLE = 0.97  # of what is free: allocators leave gaps, and others want memory too
_FLOAT = 4
_TREE_ROWS = 64
_SPARE_ROWS = 128  # of the KV cache (model/cache.py)
_BLOCK_K = 128  # inner positions to which 4-bit rows are filled up on a GPU (kernels/packing.py)
# A GPU's products are split until there are enough programs for about 128 processors (kernels/linear.py).
_PROGRAMS = 4 * 128
_MOST_SPLITS = 8
_RUN = 256  # positions of one part of attention (kernels/attention.py)
_FUSED_PREFILL = 128  # rows at once
_PREFILL = 512
_CUBLAS = 2 * 33_554_432  # its workspaces, of two streams
_MOST_UNKNOWN = 300_000_000  # workspace, of a model of which only the number of weights is known
_PACKING = 5  # times the codes of the largest product, while they are laid out for the kernels


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
) -> MemoryPlan:
    """For a context of this length on this device."""
    decoder = _decoder(model, memory)
    weights = decoder.weights(quantization) + decoder.table(context_length)
    held_heads = 0 if heads is None else decoder.heads(heads, quantization)
    return MemoryPlan(
        context_length=context_length,
        weights=weights,
        heads=held_heads,
        cache=(context_length + _SPARE_ROWS) * decoder.kv_bytes,
        workspace=decoder.workspace(context_length) if model.hidden else min(weights // 8, _MOST_UNKNOWN),
        program=STARTED[memory.device] + (_GPU_KERNELS if memory.device == "cuda" else 0),
        loading=weights + held_heads + decoder.packing(heads, quantization),
    )


def longest_fitting(
    model: ModelSizes, heads: HeadSizes | None, quantization: Quantization, memory: Memory, free: int
) -> MemoryPlan | None:
    """With the model's own context if it fits into so many bytes, else with the longest that does; None if
    not even MIN_CONTEXT_LENGTH tokens do.
    """
    own = model.context or LEAST_COMFORT
    lengths = [*range(MIN_CONTEXT_LENGTH, own, STEP), own]
    planned = partial(plan_memory, model, heads, quantization, memory)
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
) -> MemoryPlan:
    """With the context asked for, or at most the model's own; of itself with the longest that fits.

    Raises OutOfMemory, which says what would fit, if that doesn't or is too short to be of use.
    """
    longest = longest_fitting(model, heads, quantization, memory, memory.free)
    if asked is None:
        if longest is not None and is_comfortable(longest, model):
            return longest
    elif longest is not None and longest.context_length >= min(asked, model.context or asked):
        return plan_memory(model, heads, quantization, memory, min(asked, longest.context_length))
    wanted = min(asked or LEAST_COMFORT, model.context or LEAST_COMFORT)
    needed = round(plan_memory(model, heads, quantization, memory, wanted).peak / _USABLE)
    smaller = [
        kind
        for kind in _smaller(quantization)
        if (plan := longest_fitting(model, heads, kind, memory, memory.free)) is not None
        and plan.context_length >= wanted
    ]
    advice = [f"--quant {kind}" for kind in smaller[:1]]
    advice += [f"--context {longest.context_length}"] if longest is not None else []
    raise OutOfMemory(
        f"{name} {_HELD[quantization]} needs {size(needed)} with {wanted:,} tokens of context, and "
        f"{size(memory.free)} are free. {_sentence(advice, memory)}"
    )


_HELD: Mapping[Quantization, str] = {"4bit": "in 4 bits", "8bit": "in 8 bits", "none": "unquantised"}


def _smaller(quantization: Quantization) -> list[Quantization]:
    """Those below it, widest first."""
    kinds: tuple[Quantization, ...] = get_args(Quantization)
    return list(reversed(kinds[: kinds.index(quantization)]))


def _sentence(advice: Sequence[str], memory: Memory) -> str:
    if advice:
        return f"Try {' or '.join(advice)}."
    elsewhere = ", use --device cpu" if memory.device == "cuda" else ""
    return f"Free some memory{elsewhere} or choose a smaller model."


@dataclass(frozen=True, slots=True)
class _Decoder:
    """How a model is held and run: here by transformers."""

    model: ModelSizes
    memory: Memory

    @property
    def kv_bytes(self) -> int:
        """Of one token. On a CPU attention computes in float32, and so are keys and values held."""
        is_float = self.memory.device == "cpu" and self.model.has_own_decoder
        return self.model.kv_bytes * (_FLOAT if is_float else self.memory.number_bytes) // HALF

    def weights(self, quantization: Quantization) -> int:
        return self.model.weights_bytes(quantization, self.memory.number_bytes)

    def table(self, context_length: int) -> int:
        """What each position has among the weights."""
        return 0

    def heads(self, heads: HeadSizes, quantization: Quantization) -> int:
        of_vocabulary = heads.vocabulary * self.model.hidden
        return self.memory.number_bytes * (heads.layers + heads.lm_heads + of_vocabulary)

    def workspace(self, context_length: int) -> int:
        """At the end of a long prompt, or in a step of the largest tree."""
        model = self.model
        layer = _PREFILL * (4 * model.inner + 6 * model.hidden) * self.memory.number_bytes
        # Scores of all heads in the model's numbers and in float32, and the mask.
        pairs = _PREFILL * context_length * (model.num_heads * (self.memory.number_bytes + _FLOAT) + HALF)
        return max(layer + pairs, 2 * _TREE_ROWS * model.vocabulary * _FLOAT)

    def packing(self, heads: HeadSizes | None, quantization: Quantization) -> int:
        """Of the largest weight in whole numbers, while it is quantised."""
        largest = max((rows * columns for (rows, columns), _ in self.model.linears), default=0)
        return 0 if quantization == "none" else largest * self.memory.number_bytes


class _LeanDecoder(_Decoder):
    """On a CPU."""

    def weights(self, quantization: Quantization) -> int:
        # A tied LM head is packed beside the embedding.
        again = self.model.vocabulary * self.model.hidden if self.model.is_tied else 0
        return super().weights(quantization) + self.memory.number_bytes * again

    def heads(self, heads: HeadSizes, quantization: Quantization) -> int:
        # Drafts are computed in 8 bits.
        of_vocabulary = 0 if heads.lm_heads else (heads.vocabulary or self.model.vocabulary)
        layers = heads.layers if heads.sees_path else heads.layers * self.memory.number_bytes
        return layers + heads.lm_heads * self.memory.number_bytes + of_vocabulary * self.model.hidden

    def workspace(self, context_length: int) -> int:
        model = self.model
        layer = _PREFILL * (3 * model.inner + 6 * model.hidden) * _FLOAT
        group = model.num_heads // model.num_kv_heads
        pairs = _PREFILL * context_length * (model.num_heads + group + 1) * _FLOAT
        return max(layer + pairs, 2 * _TREE_ROWS * model.vocabulary * _FLOAT)


class _FusedDecoder(_Decoder):
    """On a GPU, in our own kernels and CUDA graphs."""

    def weights(self, quantization: Quantization) -> int:
        return self.model.weights_bytes(quantization, HALF, _BLOCK_K)

    def table(self, context_length: int) -> int:
        return (context_length + _TREE_ROWS) * self.model.head_dim * _FLOAT

    def heads(self, heads: HeadSizes, quantization: Quantization) -> int:
        # Their LM heads are held in 4 bits, and path heads beside a base of 4 bits too.
        own = matrix_bytes(heads.lm_heads // _BLOCK_K, _BLOCK_K, "4bit")
        kind: Quantization = "4bit" if quantization == "4bit" else "none"
        layers = matrix_bytes(heads.layers // _BLOCK_K, _BLOCK_K, kind if heads.sees_path else "none")
        of_vocabulary = 0 if heads.lm_heads else matrix_bytes(heads.vocabulary, self.model.hidden, kind)
        return layers + own + of_vocabulary

    def workspace(self, context_length: int) -> int:
        eager = self._rows(_FUSED_PREFILL) + self._parts(2 * _FUSED_PREFILL, context_length)
        graphs = self._rows(_TREE_ROWS) + self._parts(_TREE_ROWS, context_length)
        return eager + graphs + _CUBLAS

    def packing(self, heads: HeadSizes | None, quantization: Quantization) -> int:
        """Of the gate and up projections, which are one product, or of one LM head, whole and in 4 bits
        twice, in parts and put together.
        """
        codes = 2 * self.model.inner * self.model.hidden
        product = {"4bit": _PACKING * codes, "8bit": codes, "none": HALF * codes}[quantization]
        lm_head = 0 if heads is None or not heads.lm_heads else self.model.vocabulary * self.model.hidden
        return max(product, (HALF + 1) * lm_head)

    def _rows(self, count: int) -> int:
        """Of so many rows at the widest place: a layer's partial sums, or logits and their sum."""
        model = self.model
        widest = max(
            2 * model.inner, (model.num_heads + 2 * model.num_kv_heads) * model.head_dim, key=_split_outputs
        )
        layer = _split_outputs(widest) + _split_outputs(model.hidden) + 4 * model.hidden
        return max(count * layer, 2 * _TREE_ROWS * model.vocabulary) * _FLOAT

    def _parts(self, count: int, context_length: int) -> int:
        """What attention's programs leave for each other. A prompt's grow with the cache by doubling, and the
        smaller ones stay with the allocator: together they are as large again.
        """
        runs = -(-(context_length + _SPARE_ROWS) // _RUN) + 1
        return count * self.model.num_heads * runs * (self.model.head_dim + 2) * _FLOAT


def _decoder(model: ModelSizes, memory: Memory) -> _Decoder:
    if not model.has_own_decoder:
        return _Decoder(model, memory)
    if memory.device == "cpu":
        return _LeanDecoder(model, memory)
    return _FusedDecoder(model, memory) if memory.number_bytes == HALF else _Decoder(model, memory)


def _split_outputs(outputs: int) -> int:
    """Numbers in a row's partial sums."""
    return min(_MOST_SPLITS * outputs, max(outputs, _PROGRAMS * _BLOCK_K))
