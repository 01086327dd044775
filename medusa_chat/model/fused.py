"""The Llama family's forward on a GPU, in our own kernels: about ten launches a layer and no wait anywhere.

All of it is a function of a row's token, its position and the tokens before it, computed in one order
whatever else is computed beside it: plain decoding, prefill and the nodes of any tree give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from medusa_chat.kernels.attention import MAX_DEPTH, Placement, attention, runs_reached
from medusa_chat.kernels.kv_rows import KVRows
from medusa_chat.kernels.linear import Tiling, default_tiling, linear
from medusa_chat.kernels.packing import PackedWeight
from medusa_chat.kernels.pointwise import add_norm, embed_norm, gate
from medusa_chat.kernels.rotary import HeadNorms, HeadShape, rotate_and_append
from medusa_chat.model.base import BaseModel
from medusa_chat.model.cache import KVCache
from medusa_chat.model.lasting import LastingMemory
from medusa_chat.model.packed import pack_modules, quantize_rows, rows_of
from medusa_chat.records import LMHeadPrecision

_PREFILL_ROWS = 128


@dataclass(frozen=True, slots=True)
class Product:
    """A packed weight and how its product is cut."""

    weight: PackedWeight
    tiling: Tiling

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x (M, K) -> partial sums (S, M, N) in the dtype of x."""
        return linear(x, self.weight, self.tiling)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """x (M, K) -> (M, N) float32."""
        return summed(linear(x, self.weight, self.tiling, torch.float32))


@dataclass(frozen=True, slots=True)
class _Layer:
    input_norm: torch.Tensor
    qkv: Product
    head_norms: HeadNorms | None
    out: Product
    mlp_norm: torch.Tensor
    gate_up: Product
    down: Product

    def mlp(self, normed: torch.Tensor) -> torch.Tensor:
        """(M, D) -> partial sums (S, M, D)."""
        return self.down(gate(self.gate_up(normed)))


class FusedModel(BaseModel):
    """Takes over a BaseModel's weights; the model it came from can't run any more."""

    runs_in_graphs = True

    def __init__(self, base: BaseModel, lm_head: LMHeadPrecision = "full") -> None:
        super().__init__(base.causal_lm)
        decoder = self.causal_lm.get_decoder()
        config = self.config
        head_dim = getattr(config, "head_dim", None) or self.hidden_size // config.num_attention_heads
        self.context_length = base.context_length
        self._shape = HeadShape(config.num_attention_heads, config.num_key_value_heads, head_dim)
        self._scale = head_dim**-0.5
        self.lasting = LastingMemory(self.device)
        self._eps: float = config.rms_norm_eps
        # A step launched ahead may reach beyond the context before the host knows that the reply is over.
        self._turns = _turns(decoder.rotary_emb, self.context_length + 4 * (MAX_DEPTH + 1))
        self.embedding: torch.Tensor = self.causal_lm.get_input_embeddings().weight
        self._layers = [self._take_over(layer) for layer in decoder.layers]
        self._norm: torch.Tensor = decoder.norm.weight
        head = self.causal_lm.get_output_embeddings()
        if lm_head == "full":
            self._output = self.product([head])
        else:
            self._output = self.quantised_lm_head()
            if head.weight.data_ptr() != self.embedding.data_ptr():
                head.weight = nn.Parameter(head.weight.new_empty(0), requires_grad=False)

    @property
    def num_bytes(self) -> int:
        products = [
            product.weight
            for layer in self._layers
            for product in (layer.qkv, layer.out, layer.gate_up, layer.down)
        ]
        shares = self._output.weight.data.data_ptr() == self.embedding.data_ptr()
        return (
            sum(weight.num_bytes for weight in products)
            + self.embedding.nbytes
            + (0 if shares else self._output.weight.num_bytes)
            + self._turns.nbytes
        )

    def product(self, modules: Sequence[Any]) -> Product:
        """The linear modules' weights, taken over and stacked by rows."""
        weight = pack_modules(modules, self.dtype)
        if weight.scales is not None:
            with self.lasting.taken():
                weight = replace(weight, data=weight.data.clone(), scales=weight.scales.clone())
        return self.cut(weight)

    def cut(self, weight: PackedWeight) -> Product:
        return Product(weight, default_tiling(weight, self.device))

    def quantised_lm_head(self) -> Product:
        """The LM head in 4 bits, beside the whole one."""
        head = self.causal_lm.get_output_embeddings()
        return self.cut(quantize_rows(head.weight, self.lasting, head.bias))

    @property
    def is_4bit(self) -> bool:
        return self._layers[0].qkv.weight.table is not None

    def draft_head(self, vocabulary: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
        if vocabulary is None:
            return self.logits
        if self._output.weight.table is not None:
            product = self.cut(rows_of(self._output.weight, vocabulary))
        elif self.is_4bit:
            product = self.cut(quantize_rows(self.lm_head_weight, self.lasting, rows=vocabulary))
        else:
            rows = self.lm_head_weight[vocabulary]  # (V', D)
            return lambda hidden: F.linear(hidden, rows)
        return product.logits

    def forward(
        self,
        ids: torch.Tensor,
        cache: KVCache,
        positions: torch.Tensor | None = None,
        visible: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As BaseModel.forward, for B = 1."""
        num_rows = ids.shape[1]
        length = torch.tensor([cache.length], dtype=torch.int32, device=self.device)
        if positions is None or visible is None:
            depths, paths = torch.arange(num_rows, device=self.device), None
        else:
            depths = positions - cache.length
            paths = _paths(depths, visible)
        self.reserve(cache, num_rows)
        # As many runs as the store shows, not as the rows reach: attention's workspace then has few sizes, of
        # which the allocator would keep every one that it has seen.
        placement = Placement(length, depths, paths, runs_reached(cache.capacity))
        return self.run(ids[0], cache.store, placement)[None]

    def prefill(self, ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
        for chunk in torch.split(ids, _PREFILL_ROWS, dim=1):
            hidden = self.forward(chunk, cache)
            cache.keep(range(chunk.shape[1]))
        return hidden[:, -1]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, n, D) hidden states -> (…, n, V) float32 logits."""
        flat = hidden.reshape(-1, self.hidden_size)
        return self._output.logits(flat).view(*hidden.shape[:-1], self.vocab_size)

    def reserve(self, cache: KVCache, num_rows: int) -> None:
        """Makes room for so many rows behind the committed ones."""
        cache.reserve(num_rows, self._shape.num_kv_heads, self._shape.head_dim, self.device)

    def run(self, ids: torch.Tensor, store: KVRows, placement: Placement) -> torch.Tensor:
        """ids (M,) at their placement over a cache's store (layers, 2, 1, G, capacity, d) -> (M, D).

        Only device memory is read and written: a CUDA graph can hold it.
        """
        norms = [*(layer.input_norm for layer in self._layers), self._norm]
        stream, normed = embed_norm(ids, self.embedding, norms[0], self._eps)  # (M, D) each
        # Partial sums have no names: what is added up is free, and attention takes that memory.
        for number, (layer, next_norm) in enumerate(zip(self._layers, norms[1:], strict=True)):
            keys, values = store[number, 0, 0], store[number, 1, 0]
            queries = rotate_and_append(
                layer.qkv(normed), self._shape, self._turns, placement.length, placement.depths,
                keys, values, layer.head_norms,
            )  # fmt: skip
            mixed = attention(queries, keys, values, self._shape, placement, self._scale)
            stream, normed = add_norm(stream, layer.out(mixed), layer.mlp_norm, self._eps)
            stream, normed = add_norm(stream, layer.mlp(normed), next_norm, self._eps)
        return normed

    def _take_over(self, layer: Any) -> _Layer:
        attention_, mlp = layer.self_attn, layer.mlp
        norms = None
        if hasattr(attention_, "q_norm"):
            norms = HeadNorms(attention_.q_norm.weight, attention_.k_norm.weight, self._eps)
        return _Layer(
            layer.input_layernorm.weight,
            self.product([attention_.q_proj, attention_.k_proj, attention_.v_proj]),
            norms,
            self.product([attention_.o_proj]),
            layer.post_attention_layernorm.weight,
            self.product([mlp.gate_proj, mlp.up_proj]),
            self.product([mlp.down_proj]),
        )


def summed(partial: torch.Tensor) -> torch.Tensor:
    """Partial sums (S, M, N) -> (M, N)."""
    return partial[0] if len(partial) == 1 else partial.sum(0)


def _turns(rotary: Any, num_positions: int) -> torch.Tensor:
    """(2, C, d / 2) float32: cos and sin of every position."""
    inverse = rotary.inv_freq.float()
    angles = torch.arange(num_positions, device=inverse.device).float()[:, None] * inverse
    scaling: float = rotary.attention_scaling
    return torch.stack([angles.cos(), angles.sin()]) * scaling


def _paths(depths: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """depths (N,), visible (N, N) -> (N, W): each row's ancestor at each depth up to its own."""
    levels = torch.arange(int(depths.max()) + 1, device=depths.device)
    at_level = visible[:, None] & (depths == levels[:, None])  # (N, W, N)
    return at_level.int().argmax(-1)
