"""What training takes of the memory beside the model itself, estimated before it starts.

Held against what a GPU then reports (one H100, tests/training/test_memory.py), dialogues of 2048 tokens, GB
beside the model's own, estimated / measured:

    Llama-2-7B's shape, NF4      Medusa-1, path heads, 8 dialogues at once    15.0 / 14.2
                                 Medusa-1, blocks, 8 at once                   7.7 / 5.1
                                 Medusa-2, path heads, 2 at once               8.5 / 7.5
    TinyLlama's shape, bfloat16  Medusa-1, path heads, 8 at once               7.3 / 7.0
                                 Medusa-2, path heads, 4 at once               6.2 / 6.4

What the heads keep is counted as if no two of them held the same tensor, which blocks do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from medusa_chat.errors import OutOfMemory
from medusa_chat.model.adapter import Adapter
from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.loading import is_out_of_memory
from medusa_chat.model.memory import free_bytes
from medusa_chat.training.loss import chunk_bytes
from medusa_chat.training.optimizer import moment_bytes
from medusa_chat.training.recipe import AdapterRecipe

_USABLE = 0.9  # of what is free: the allocator leaves gaps
_WRITTEN_AT_ONCE_GPU = 4096  # from 2048 on a GPU is busy all the time (training/dialogues.py)
_WRITTEN_AT_ONCE_CPU = 16
_LOGITS_COPIES = 4  # in float32, which sampling works on
_PROBE_TOKENS = 64
_SHORTEST_DIALOGUE = 64
_FLOAT = 4


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes. fixed: however much is learnt from at once; per_token: of a dialogue; per_pair: of each pair of
    tokens in one, where attention holds its whole square.
    """

    fixed: int
    per_token: int
    per_pair: int = 0

    def of_dialogues(self, count: int, length: int) -> int:
        """All of it."""
        return self.fixed + count * self._of_one(length)

    def at_once(self, length: int, free: int) -> int:
        """How many dialogues of `length` tokens can be learnt from at once; maybe not even one."""
        return max(0, int(_USABLE * free) - self.fixed) // self._of_one(length)

    def _of_one(self, length: int) -> int:
        return length * (self.per_token + length * self.per_pair)


def medusa1_need(base: BaseModel, heads: MedusaHeads) -> Need:
    """Of heads that learn from a base which is only read."""
    num_weights = sum(weight.numel() for weight in heads.parameters())
    learning = _of_learning_heads(base, heads)
    # The heads learn once the base's own forward is over; what it leaves is its hidden states, twice.
    return Need(
        fixed=_of_training(num_weights, base) + chunk_bytes(base.dtype) + _of_dequantising(base),
        per_token=max(_of_forward(base), learning) + 2 * base.hidden_size * base.dtype.itemsize,
        per_pair=_of_pair(base),
    )


def medusa2_need(base: BaseModel, heads: MedusaHeads, adapter: Adapter, *, remembers_all: bool) -> Need:
    """Of heads and an adapter that is on the base. remembers_all: or layers run again on the way back."""
    num_layers = base.config.num_hidden_layers
    num_weights = sum(weight.numel() for weight in (*heads.parameters(), *adapter.weights.values()))
    # As random ids would keep it; what a layer keeps doesn't follow from them.
    ids = torch.zeros(2, _PROBE_TOKENS, dtype=torch.long, device=base.device)
    one, both = _kept(lambda: _adapted(base, ids[:1])), _kept(lambda: _adapted(base, ids))
    kept = (both - one) // _PROBE_TOKENS
    per_pair = _of_pair(base)
    if remembers_all:
        per_pair *= num_layers
    else:
        kept = kept // num_layers + num_layers * base.hidden_size * base.dtype.itemsize
    return Need(
        fixed=_of_training(num_weights, base) + chunk_bytes(torch.float32) + _of_dequantising(base),
        per_token=kept + _of_forward(base) + _of_learning_heads(base, heads),
        per_pair=per_pair,
    )


def medusa2_needs(base: BaseModel, heads: MedusaHeads, recipe: AdapterRecipe) -> Need:
    """The least that Medusa-2's second stage can do with. Puts an adapter on and takes it off again.

    Raises UnsupportedModel where none can be trained.
    """
    adapter = Adapter(base, recipe.rank, recipe.alpha, recipe.dropout)
    try:
        return medusa2_need(base, heads, adapter, remembers_all=False)
    finally:
        adapter.take_off()


def written_at_once(base: BaseModel, length: int) -> int:
    """How many dialogues of `length` tokens are written side by side: what fits, KV cache included. Raises
    OutOfMemory if not even one does.
    """
    if base.device.type != "cuda":
        return _WRITTEN_AT_ONCE_CPU
    config = base.config
    num_kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_hidden_layers * num_kv_heads * head_dim * length * base.dtype.itemsize
    one = cached + _LOGITS_COPIES * _FLOAT * base.vocab_size
    free = free_bytes(base.device)
    fitting: int = int(_USABLE * free) // one
    if fitting == 0:
        raise OutOfMemory(
            f"Writing one dialogue of {length:,} tokens takes {one / 2**30:.1f} GB beside the model, and "
            f"{free / 2**30:.1f} GB are free; use a smaller --sequence-length or --quant 4bit."
        )
    return min(_WRITTEN_AT_ONCE_GPU, fitting)


@contextmanager
def memory_explained() -> Iterator[None]:
    """Turns memory that runs out after all into an OutOfMemory that says what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            "Training ran out of memory; run it again with a smaller --batch-size, "
            "a smaller --sequence-length or --quant 4bit."
        ) from error


def check_fits(need: Need, length: int, free: int, *, quantised: bool) -> None:
    """Raises OutOfMemory, saying what would fit, unless a dialogue of `length` tokens can be learnt from."""
    if need.at_once(length, free):
        return
    shorter = length
    while shorter > _SHORTEST_DIALOGUE and not need.at_once(shorter, free):
        shorter //= 2
    if need.at_once(shorter, free):
        advice = f"--sequence-length {shorter} would fit"
    elif not quantised:
        advice = "--quant 4bit would leave more"
    else:
        advice = "smaller heads (--layers, --head-width) take less"
    raise OutOfMemory(
        f"Training takes about {need.of_dialogues(1, length) / 2**30:.1f} GB beside the model, and "
        f"{free / 2**30:.1f} GB are free; {advice}."
    )


def _of_training(num_weights: int, base: BaseModel) -> int:
    """Weights in float32 and as autocast turns them, gradients, and the optimiser's moments."""
    return num_weights * (2 * _FLOAT + base.dtype.itemsize + moment_bytes(base.device))


def _of_learning_heads(base: BaseModel, heads: MedusaHeads) -> int:
    """A token's: what the heads keep for their gradients, as a small run shows, and each head's state, its
    gradient and the embedding it is fed with.
    """
    size, dtype, device = base.hidden_size, base.dtype, base.device

    def learn(num_rows: int) -> Any:
        hidden = torch.zeros(num_rows, size, dtype=dtype, device=device)
        path = torch.zeros(heads.num_heads, num_rows, size, dtype=dtype, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype != torch.float32):
            return heads.rows(hidden, path)

    kept = _kept(lambda: learn(2 * _PROBE_TOKENS)) - _kept(lambda: learn(_PROBE_TOKENS))
    return kept // _PROBE_TOKENS + 4 * heads.num_heads * size * dtype.itemsize


def _of_forward(base: BaseModel) -> int:
    """A token's at the widest place of a forward: an MLP's four products beside the residual stream."""
    config = base.config
    inner = getattr(config, "intermediate_size", None) or 4 * base.hidden_size
    return int((4 * inner + 6 * base.hidden_size) * base.dtype.itemsize)


def _of_pair(base: BaseModel) -> int:
    """A pair of tokens' scores in all heads, where attention is transformers' plain one."""
    if base.config._attn_implementation != "eager":
        return 0
    return int(base.config.num_attention_heads * (2 * base.dtype.itemsize + _FLOAT))


def _of_dequantising(base: BaseModel) -> int:
    """The largest layer in 16 bits, as which quantised ones are multiplied with many tokens."""
    quantised = [
        layer.in_features * layer.out_features
        for layer in base.causal_lm.modules()
        if type(layer).__name__ in ("Linear4bit", "Linear8bitLt")
    ]
    return max(quantised, default=0) * base.dtype.itemsize


def _adapted(base: BaseModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.autocast(base.device.type, base.dtype, enabled=base.dtype != torch.float32):
        return base.hidden_states(ids)


def _kept(run: Callable[[], Any]) -> int:
    """Bytes that run's result keeps for gradients."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = run()  # as long as it lives, what was kept does
    del result
    return sum(kept.values())
