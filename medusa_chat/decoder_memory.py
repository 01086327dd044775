"""What each decoder holds of a model and what it needs to run it, in bytes, counted from headers.

On a GPU that is model/fused.py, on a CPU model/lean.py, else transformers' own forward.
"""

from __future__ import annotations

from dataclasses import dataclass

from medusa_chat.footprint import HALF, kv_row_bytes, matrix_bytes
from medusa_chat.machine import Memory
from medusa_chat.model_sizes import HeadSizes, ModelSizes
from medusa_chat.records import MAX_TREE_SIZE, KVPrecision, LMHeadPrecision, Quantization

# Of the KV cache, behind the longest conversation. No more: a tree is only drafted where its deepest path,
# and that of the step under way, still fit the context.
SPARE_ROWS = MAX_TREE_SIZE
_FLOAT = 4
_BLOCK_K = 128  # inner positions to which 4-bit rows are filled up on a GPU (kernels/packing.py)
# A GPU's products are split until there are enough programs for about 128 processors (kernels/linear.py).
_PROGRAMS = 4 * 128
_MOST_SPLITS = 8
_RUN = 256  # positions of one part of attention (kernels/attention.py)
_FUSED_PREFILL = 128  # rows at once
_PREFILL = 512
LEAN_PREFILL = 64
LEAN_CHUNK = 128  # positions of one part of attention
_CUBLAS = 2 * 33_554_432  # its workspaces, of two streams
_SMALL_HEAD = 64  # where its size isn't known: larger ones have fewer scales
_PACKING = 5  # times the codes of the largest product, while they are laid out for the kernels
_PACKING_HEADS = 20 * 2048  # rows at once, of heads that come in 16 bits (model/packed.py)


@dataclass(frozen=True, slots=True)
class Decoder:
    """How a model is held and run: here by transformers."""

    model: ModelSizes
    memory: Memory
    kv_cache: KVPrecision
    lm_head: LMHeadPrecision = "full"

    @property
    def kv_bytes(self) -> int:
        """Of one token. On a CPU attention computes in float32, and so are keys and values held in full."""
        model = self.model
        if self.kv_cache == "8bit":
            head_dim = model.head_dim or _SMALL_HEAD
            return model.kv_bytes // (HALF * head_dim) * kv_row_bytes(head_dim, "8bit")
        is_float = self.memory.device == "cpu" and model.has_own_decoder
        return model.kv_bytes * (_FLOAT if is_float else self.memory.number_bytes) // HALF

    def weights(self, quantization: Quantization) -> int:
        """Of the base model."""
        return self.model.weights_bytes(quantization, self.memory.number_bytes)

    def table(self, context_length: int) -> int:
        """What each position has among the weights."""
        return 0

    def heads(self, heads: HeadSizes, quantization: Quantization) -> int:
        """Of Medusa heads, with the rows of the base's LM head that they have a copy of."""
        of_vocabulary = heads.vocabulary * self.model.hidden
        return self.memory.number_bytes * (heads.layers + heads.lm_heads + of_vocabulary)

    def workspace(self, context_length: int) -> int:
        """At the end of a long prompt, or in a step of the largest tree."""
        model = self.model
        layer = _PREFILL * (4 * model.inner + 6 * model.hidden) * self.memory.number_bytes
        # Scores of all heads in the model's numbers and in float32, and the mask.
        pairs = _PREFILL * context_length * (model.num_heads * (self.memory.number_bytes + _FLOAT) + HALF)
        return max(layer + pairs, 2 * MAX_TREE_SIZE * model.vocabulary * _FLOAT)

    def packing(self, quantization: Quantization) -> int:
        """Of the largest weight in whole numbers, while it is quantised; 0 where that isn't known."""
        if not self.model.hidden:
            return 0
        largest = max((rows * columns for (rows, columns), _ in self.model.linears), default=0)
        return 0 if quantization == "none" else largest * self.memory.number_bytes


class _LeanDecoder(Decoder):
    """On a CPU."""

    def weights(self, quantization: Quantization) -> int:
        # A tied LM head is packed beside the embedding.
        again = self.model.vocabulary * self.model.hidden if self.model.is_tied else 0
        return super().weights(quantization) + self.memory.number_bytes * again

    def heads(self, heads: HeadSizes, quantization: Quantization) -> int:
        # Drafts are computed in 8 bits.
        of_vocabulary = 0 if heads.lm_heads else (heads.vocabulary or self.model.vocabulary)
        layers = heads.layers if heads.kind == "path" else heads.layers * self.memory.number_bytes
        return layers + heads.lm_heads * self.memory.number_bytes + of_vocabulary * self.model.hidden

    def workspace(self, context_length: int) -> int:
        model = self.model
        layer = LEAN_PREFILL * (model.inner + 6 * model.hidden) * _FLOAT
        chunks = -(-(context_length + SPARE_ROWS) // LEAN_CHUNK) + 1
        parts = LEAN_PREFILL * model.num_heads * chunks * (model.head_dim + 2) * _FLOAT
        return max(layer + parts, 2 * MAX_TREE_SIZE * model.vocabulary * _FLOAT)


class _FusedDecoder(Decoder):
    """On a GPU, in our own kernels and CUDA graphs."""

    def weights(self, quantization: Quantization) -> int:
        whole = self.model.weights_bytes(quantization, HALF, _BLOCK_K, HALF)
        return whole + self._quantised_head()

    def table(self, context_length: int) -> int:
        return (context_length + MAX_TREE_SIZE) * self.model.head_dim * _FLOAT

    def heads(self, heads: HeadSizes, quantization: Quantization) -> int:
        # The paper's are held in 4 bits, and path heads beside a base of 4 bits too.
        def held(numbers: int, kind: Quantization) -> int:
            return matrix_bytes(numbers // _BLOCK_K, _BLOCK_K, kind, HALF, HALF)

        kind: Quantization = "4bit" if quantization == "4bit" else "none"
        of_layers: Quantization = {"block": "4bit", "path": kind}.get(heads.kind, "none")
        of_vocabulary = 0 if heads.lm_heads else heads.vocabulary * self.model.hidden
        return held(heads.layers, of_layers) + held(heads.lm_heads, "4bit") + held(of_vocabulary, kind)

    def workspace(self, context_length: int) -> int:
        eager = self._rows(_FUSED_PREFILL) + self._parts(2 * _FUSED_PREFILL, context_length)
        graphs = self._rows(MAX_TREE_SIZE) + self._parts(MAX_TREE_SIZE, context_length)
        return eager + graphs + _CUBLAS

    def packing(self, quantization: Quantization) -> int:
        """Of the gate and up projections, which are one product, or of some rows of the heads; the LM head is
        whole until then.
        """
        codes = 2 * self.model.inner * self.model.hidden
        product = {"4bit": _PACKING * codes, "8bit": 2 * codes, "none": HALF * codes}[quantization]
        return max(product, _PACKING_HEADS * self.model.hidden) - self._quantised_head()

    def _quantised_head(self) -> int:
        """What an LM head in 4 bits takes more than the whole one, which a tied embedding stays."""
        rows, columns = self.model.vocabulary, self.model.hidden
        if self.lm_head == "full":
            return 0
        whole = 0 if self.model.is_tied else HALF * rows * columns
        return matrix_bytes(rows, -(-columns // _BLOCK_K) * _BLOCK_K, "4bit", HALF, HALF) - whole

    def _rows(self, count: int) -> int:
        """Of so many rows at the widest place: a layer's partial sums, or logits and their sum."""
        model = self.model
        widest = max(
            2 * model.inner, (model.num_heads + 2 * model.num_kv_heads) * model.head_dim, key=_split_outputs
        )
        layer = HALF * _split_outputs(widest) + _FLOAT * 4 * model.hidden
        return max(count * layer, _FLOAT * 2 * MAX_TREE_SIZE * model.vocabulary)

    def _parts(self, count: int, context_length: int) -> int:
        """What attention's programs leave for each other. A prompt's grow with the cache by doubling, and the
        smaller ones stay with the allocator: together they are as large again.
        """
        runs = -(-(context_length + SPARE_ROWS) // _RUN) + 1
        return count * self.model.num_heads * runs * (HALF * self.model.head_dim + 2 * _FLOAT)


def decoder_of(model: ModelSizes, memory: Memory, kv_cache: KVPrecision, lm_head: LMHeadPrecision) -> Decoder:
    """As model/fastest.py chooses, on a GPU that has kernels of ours."""
    kind = Decoder
    if model.has_own_decoder and memory.device == "cpu":
        kind = _LeanDecoder
    elif model.has_own_decoder and memory.number_bytes == HALF:
        kind = _FusedDecoder
    return kind(model, memory, kv_cache, lm_head)


def _split_outputs(outputs: int) -> int:
    """Numbers in a row's partial sums."""
    return min(_MOST_SPLITS * outputs, max(outputs, _PROGRAMS * _BLOCK_K))
