"""The base model on a CPU without transformers' overhead: a decoder of the Llama family in few operations.

transformers' forward of one token is mostly waiting between small operations. Here q, k and v are one
product, as are gate and up; rotation is one complex product over queries, keys and values together; keys and
values are written at once; and what depends only on the tree is worked out once for all layers. Between the
matrix products everything is float32. BaseModel, whose weights this takes over, is the truth it is tested
against.

Default model, bfloat16, two quiet Zen 4 cores, context 100, ms with the LM head: transformers 45 for one
token and 54 for 16; this 19 and 31. Of the 19, products take 11 (reading 270 MB at the 56 GB/s measured would
take 5); the other 8 are 40 operations a layer at 4 to 25 µs each, two or three times what they take in a loop
of their own, since each layer's weights push code and data out of the L2 cache and the other core wrote half
of what they read.

Tried without gain: residuals, silu and gate as oneDNN's post-operations (the bfloat16 norms cost what they
save); huge pages. Compiling a layer by torch.jit.script saves 2 ms, but torch is giving that up. 8 bits are
no faster on this model: the products take 6 ms instead of 11, but rounding the rows adds six operations to
each. Nor are they the default: they raise perplexity by 5% (4 bits by 23%), and of 20 greedy replies none
stayed the same for 64 tokens, against 9 between bfloat16 and float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from medusa_chat.model.architecture import LLAMA_FAMILY
from medusa_chat.model.attention import GROUPED_ATTENTION, KeyChunk, key_chunks, reproducible_attention
from medusa_chat.model.base import BaseModel
from medusa_chat.model.cache import KVCache
from medusa_chat.model.linear import Linear, can_join, draft_linear, join, pack

# The others stretch with the length of the text.
_FIXED_ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})


def lean(base: BaseModel) -> BaseModel:
    """A LeanModel in place of `base`, whose weights it takes, where there is one: on the CPU, for the Llama
    family with a rope that doesn't change with the length. Else `base` itself.
    """
    return LeanModel(base.causal_lm) if _applies(base) else base


def _applies(base: BaseModel) -> bool:
    if base.device.type != "cpu" or not is_plain_llama(base):
        return False
    return all(
        can_join(linear) for layer in base.causal_lm.get_decoder().layers for linear in _linears(layer)
    )


def is_plain_llama(base: BaseModel) -> bool:
    """Whether the model is of the Llama family, without what its decoders here don't know."""
    config = base.config
    if config.model_type not in LLAMA_FAMILY or config._attn_implementation != GROUPED_ATTENTION:
        return False
    decoder = base.causal_lm.get_decoder()
    rotary = decoder.rotary_emb
    return (
        config.hidden_act == "silu"
        and rotary.rope_type in _FIXED_ROPE_TYPES
        and 2 * len(rotary.inv_freq) == decoder.layers[0].self_attn.head_dim
        and len({type(linear) for layer in decoder.layers for linear in _linears(layer)}) == 1
    )


def _linears(layer: Any) -> list[nn.Module]:
    attention, mlp = layer.self_attn, layer.mlp
    return [
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
    ]


@dataclass(frozen=True, slots=True)
class _Shape:
    """H query heads in groups of H / G, G key heads and as many value heads, of d values each."""

    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        return self.num_heads // self.num_kv_heads

    @property
    def num_rotated(self) -> int:
        return self.num_heads + self.num_kv_heads


@dataclass(frozen=True, slots=True)
class _Tree:
    """What a forward's layers have in common.

    rotation (H + 2G, R, d/2) complex: of queries, with the attention's scale in it, of keys, 1 for values;
    mask (group · R, S) additive; chunks: the keys in the order of their positions; normed (R, D): where
    norms write, in the dtype that the products take.
    """

    rotation: torch.Tensor
    mask: torch.Tensor
    chunks: list[KeyChunk]
    normed: torch.Tensor


class LeanModel(BaseModel):
    """A Llama-like causal language model on the CPU, for one sequence (B = 1).

    Takes the decoder layers out of `causal_lm`, which keeps the embedding, the last norm and the LM head.
    """

    def __init__(self, causal_lm: Any) -> None:
        super().__init__(causal_lm)
        decoder = causal_lm.get_decoder()
        self._embedding: torch.Tensor = decoder.embed_tokens.weight
        self._norm = _RMSNorm(decoder.norm)
        self._inv_freq: torch.Tensor = decoder.rotary_emb.inv_freq.float()
        self._rope_scale: float = decoder.rotary_emb.attention_scaling
        attention = decoder.layers[0].self_attn
        self._scale: float = attention.scaling
        d = attention.head_dim
        self._shape = _Shape(attention.q_proj.out_features // d, attention.k_proj.out_features // d, d)
        self._layers: list[_Layer] = []
        while decoder.layers:  # one at a time, so that no more than a layer is in memory twice
            self._layers.append(_Layer(decoder.layers.pop(0), self._shape))
        head = causal_lm.get_output_embeddings()
        self._packed_head = pack(head.weight.detach(), head.bias)
        self._draft_heads: list[Linear] = []
        # Tied to the embedding, it is in memory twice: tokens can't be looked up in packed weights, and
        # multiplying by unpacked ones takes twice as long.
        self._tied = head.weight is decoder.embed_tokens.weight
        if not self._tied:
            head.weight = nn.Parameter(head.weight.new_empty(0), requires_grad=False)

    @property
    def num_bytes(self) -> int:
        heads: set[Linear] = {self._packed_head, *self._draft_heads}
        return (
            super().num_bytes
            + sum(head.num_bytes for head in heads)
            + sum(layer.num_bytes for layer in self._layers)
        )

    @property
    def lm_head_weight(self) -> torch.Tensor:
        return self._embedding if self._tied else self._packed_head.weight

    def forward(
        self,
        ids: torch.Tensor,
        cache: KVCache,
        positions: torch.Tensor | None = None,
        visible: torch.Tensor | None = None,
    ) -> torch.Tensor:
        num_rows = ids.shape[1]
        ids, positions, visible = self._whole_rows(ids, cache.length, positions, visible)
        shape = self._shape
        stored, new = cache.reserve(ids.shape[1], shape.num_kv_heads, shape.head_dim, self.device)
        keys, values = stored.unbind(1)  # each (layers, G, S, d)
        tree = self._tree(positions, visible, cache.length)
        x = F.embedding(ids[0], self._embedding).float()  # (R, D)
        of_layers = zip(
            self._layers, keys.transpose(2, 3).unbind(), values.unbind(), new.unbind(), strict=True
        )
        for layer, turned_key, value, new_key_value in of_layers:
            layer(x, tree, turned_key, value, new_key_value)
        return self._norm(x, torch.empty_like(x, dtype=self.dtype))[None, :num_rows]

    def draft_head(self, vocabulary: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
        chosen = slice(None) if vocabulary is None else vocabulary
        bias: torch.Tensor | None = self.causal_lm.get_output_embeddings().bias
        head = draft_linear(self.lm_head_weight[chosen], None if bias is None else bias[chosen])
        self._draft_heads.append(head)
        return lambda hidden: head(hidden.to(head.dtype)).to(self.dtype)

    def _head_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        head = self._packed_head
        flat = hidden.reshape(-1, self.hidden_size).to(head.dtype)
        return head(flat).to(self.dtype).view(*hidden.shape[:-1], -1)

    def _tree(self, positions: torch.Tensor, visible: torch.Tensor, num_cached: int) -> _Tree:
        num_rows, shape = len(positions), self._shape
        angles = positions[:, None].float() * self._inv_freq  # (R, d/2)
        turn = torch.complex(angles.cos() * self._rope_scale, angles.sin() * self._rope_scale)
        rotation = torch.cat(
            [
                (turn * self._scale).expand(shape.num_heads, -1, -1),
                turn.expand(shape.num_kv_heads, -1, -1),
                torch.ones_like(turn).expand(shape.num_kv_heads, -1, -1),
            ]
        )
        mask = torch.zeros(num_rows, num_cached + num_rows)
        mask[:, num_cached:].masked_fill_(~visible, torch.finfo(torch.float32).min)
        return _Tree(
            rotation,
            mask.repeat(shape.group, 1),
            key_chunks(positions, num_cached + num_rows),
            torch.empty(num_rows, self.hidden_size, dtype=self._layers[0].dtype),
        )


class _RMSNorm:
    """x / √(mean(x²) + ε) · weight, in half the time of F.rms_norm, which is seven operations."""

    def __init__(self, norm: Any) -> None:
        weight = norm.weight.detach().float()
        self._weight = weight * len(weight) ** 0.5
        self._floor = torch.tensor((len(weight) * norm.variance_epsilon) ** 0.5)

    def __call__(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """(R, D) float32 -> `out`, (R, D) in any dtype."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(self._floor)
        return torch.mul(x.div(length), self._weight, out=out)


class _Layer:
    """One decoder layer, made of a transformers one, whose weights it takes."""

    def __init__(self, layer: Any, shape: _Shape) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._shape = shape
        self._attention_norm = _RMSNorm(layer.input_layernorm)
        self._mlp_norm = _RMSNorm(layer.post_attention_layernorm)
        self._head_norm = _HeadNorm(attention, shape) if hasattr(attention, "q_norm") else None
        qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
        self._qkv: Linear = join(qkv, _paired_rows(shape))
        self._output: Linear = join([attention.o_proj])
        self._gate_up: Linear = join([mlp.gate_proj, mlp.up_proj])
        self._down: Linear = join([mlp.down_proj])
        self.dtype = self._qkv.dtype
        self.num_bytes = sum(
            linear.num_bytes for linear in (self._qkv, self._output, self._gate_up, self._down)
        )

    def __call__(
        self,
        x: torch.Tensor,
        tree: _Tree,
        turned_key: torch.Tensor,
        value: torch.Tensor,
        new_key_value: torch.Tensor,
    ) -> None:
        """Adds what the layer says to x (R, D). Its part of the cache: keys (G, d, S) and values (G, S, d),
        of whose last R this forward writes both through new_key_value (2, G, R, d).
        """
        query, made = self._query_key_value(self._attention_norm(x, tree.normed), tree)
        new_key_value.copy_(made)
        seen = reproducible_attention(query, turned_key, value, tree.mask, tree.chunks)  # (G, group · R, d)
        x.add_(self._output(self._by_rows(seen, len(x))))
        gate, up = self._gate_up(self._mlp_norm(x, tree.normed)).chunk(2, dim=-1)
        x.add_(self._down(F.silu(gate).mul_(up)))

    def _query_key_value(self, x: torch.Tensor, tree: _Tree) -> tuple[torch.Tensor, torch.Tensor]:
        """(R, D) -> queries (G, group · R, d), keys and values (2, G, R, d), turned to their positions."""
        num_rows, shape = len(x), self._shape
        rows = self._qkv(x).view(num_rows, -1, shape.head_dim).transpose(0, 1)  # (H + 2G, R, d)
        heads = rows.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        if self._head_norm is not None:
            self._head_norm.apply_(heads)
        torch.view_as_complex(heads.view(len(heads), num_rows, -1, 2)).mul_(tree.rotation)
        query, key_value = heads[: shape.num_heads], heads[shape.num_heads :]
        return query.view(shape.num_kv_heads, -1, shape.head_dim), key_value.view(
            2, shape.num_kv_heads, num_rows, shape.head_dim
        )

    def _by_rows(self, seen: torch.Tensor, num_rows: int) -> torch.Tensor:
        """(G, group · R, d) -> (R, H · d) in the dtype of the products."""
        rows = seen.view(-1, num_rows, self._shape.head_dim).transpose(0, 1)
        return rows.to(self.dtype, memory_format=torch.contiguous_format, copy=True).view(num_rows, -1)


class _HeadNorm:
    """Qwen3's norms of each query and key head."""

    def __init__(self, attention: Any, shape: _Shape) -> None:
        pairs = _pairs(shape.head_dim)
        self._num_rotated = shape.num_rotated
        self._epsilon: float = attention.q_norm.variance_epsilon
        self._weight = torch.cat(
            [
                attention.q_norm.weight.detach().float()[pairs].expand(shape.num_heads, 1, -1),
                attention.k_norm.weight.detach().float()[pairs].expand(shape.num_kv_heads, 1, -1),
            ]
        )  # (H + G, 1, d)

    def apply_(self, heads: torch.Tensor) -> None:
        """Norms the queries and keys of (H + 2G, R, d) in place."""
        rotated = heads[: self._num_rotated]
        rotated.copy_(F.rms_norm(rotated, rotated.shape[-1:], eps=self._epsilon) * self._weight)


def _pairs(head_dim: int) -> torch.Tensor:
    """(d,): the order in which the two values that rotate together are neighbours: 0, d/2, 1, d/2 + 1, …"""
    return torch.arange(head_dim).view(2, -1).T.flatten()


def _paired_rows(shape: _Shape) -> torch.Tensor:
    """((H + 2G) · d,): the rows of the joined q, k and v, with those of q and k in pairs. Queries and keys
    reordered alike have the same products.
    """
    heads = torch.arange((shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim)
    heads = heads.view(-1, shape.head_dim)
    rotated, values = heads[: shape.num_rotated], heads[shape.num_rotated :]
    return torch.cat([rotated[:, _pairs(shape.head_dim)].flatten(), values.flatten()])
