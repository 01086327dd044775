"""The base model on a CPU, in our own kernels: a decoder of the Llama family, each forward one call.

transformers' forward of one token is mostly waiting between small operations, which a team of compiled
threads doesn't do (kernels/cpu). BaseModel, whose weights this takes over, is the truth it is tested against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from medusa_chat.decoder_memory import LEAN_PREFILL
from medusa_chat.kernels.cpu import rehearsing
from medusa_chat.kernels.cpu.decoder import Decoder, LayerWeights, multiply
from medusa_chat.kernels.cpu.packing import (
    PanelWeight,
    narrowest,
    pack_4bit,
    pack_float,
    pack_int8,
    quantize_int8,
    rows_dtype,
)
from medusa_chat.kernels.packing import GROUP, codes_of
from medusa_chat.model.base import BaseModel
from medusa_chat.model.cache import KVCache
from medusa_chat.model.plain_llama import is_plain_llama, linears_of
from medusa_chat.records import KVPrecision, Quantization


def lean(base: BaseModel) -> BaseModel:
    """A LeanModel in place of `base`, whose weights it takes, where there is one: on the CPU, for the Llama
    family with a rope that doesn't change with the length. Else `base` itself.
    """
    if base.device.type != "cpu" or not is_plain_llama(base) or not _can_pack(base):
        return base
    model = LeanModel(base.causal_lm)
    model.context_length = base.context_length
    return model


def _can_pack(base: BaseModel) -> bool:
    layers = base.causal_lm.get_decoder().layers
    return all(_is_known(linear) for layer in layers for linear in linears_of(layer))


def rehearse(quantization: Quantization, dtype: torch.dtype, kv_cache: KVPrecision) -> None:
    """Compiles what a model held so and its path-aware heads will need, before there is one.

    Weights loaded in float32 are taken for those of a model published in bfloat16, as nearly all are.
    """
    floats = torch.bfloat16 if dtype == torch.float32 else dtype
    layers = {"none": floats, "8bit": torch.int8, "4bit": torch.uint8}[quantization]
    rehearsing.rehearse(layers, floats, dtype, kv_cache)


class LeanModel(BaseModel):
    """A Llama-like causal language model on the CPU, for one sequence (B = 1).

    Takes the decoder layers out of `causal_lm`, which keeps the embedding, the last norm and the LM head.
    """

    is_compiled = True
    # More are no faster, as arithmetic takes longer than reading the weights; what attention leaves for the
    # joining of its chunks grows with them.
    prefill_rows = LEAN_PREFILL

    def __init__(self, causal_lm: Any) -> None:
        super().__init__(causal_lm)
        decoder = causal_lm.get_decoder()
        self._embedding: torch.Tensor = decoder.embed_tokens.weight
        self._inv_freq = decoder.rotary_emb.inv_freq.float().numpy()
        self._rope_scale = np.float32(decoder.rotary_emb.attention_scaling)
        self._rows_dtype = rows_dtype(self.dtype)
        self._layers, self._decoder = self._take_layers(decoder)
        head = causal_lm.get_output_embeddings()
        self._packed_head = _pack_head(head.weight.detach(), head.bias)
        self._draft_heads: list[PanelWeight] = []
        # Tied to the embedding, it is in memory twice: tokens can't be looked up in panels.
        self._tied = head.weight is decoder.embed_tokens.weight
        if not self._tied:
            head.weight = nn.Parameter(head.weight.new_empty(0), requires_grad=False)

    @property
    def num_bytes(self) -> int:
        products = [weight for layer in self._layers for weight in layer.products]
        packed = [*products, self._packed_head, *self._draft_heads]
        return super().num_bytes + sum(weight.num_bytes for weight in packed)

    @property
    def lm_head_weight(self) -> torch.Tensor:
        return self._embedding if self._tied else self._packed_head.dequantized().to(self.dtype)

    def forward(
        self,
        ids: torch.Tensor,
        cache: KVCache,
        positions: torch.Tensor | None = None,
        visible: torch.Tensor | None = None,
    ) -> torch.Tensor:
        ids, positions, visible = self._whole_rows(ids, cache.length, positions, visible)
        cache.reserve(ids.shape[1], self._num_kv_heads, self._head_dim, self.device)
        x = F.embedding(ids[0], self._embedding)  # (R, D)
        angles = positions.numpy()[:, None].astype(np.float32) * self._inv_freq  # (R, d/2)
        turns = np.stack([np.cos(angles), np.sin(angles)], 1) * self._rope_scale
        store = cache.store[:, :, 0]  # (layers, 2, G, capacity, d)
        hidden = self._decoder(x, store, cache.length, positions, turns, visible, self._scale)
        return hidden.to(self.dtype)[None]

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Without torch's threads: they spin for some 9 ms after each operation they had a part in, on the
        processors that the kernels' own threads are for. A forward of 8 rows took 20 ms instead of 12.
        """
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(num_threads)

    def draft_head(self, vocabulary: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
        head = self.draft_weight(vocabulary)
        return lambda hidden: multiply(hidden.to(self._rows_dtype), head)

    def draft_weight(self, vocabulary: torch.Tensor | None) -> PanelWeight:
        """The rows of the LM head for these tokens, or all, in 8 bits."""
        chosen = slice(None) if vocabulary is None else vocabulary
        bias: torch.Tensor | None = self.causal_lm.get_output_embeddings().bias
        head = quantize_int8(self.lm_head_weight[chosen], None if bias is None else bias[chosen])
        self._draft_heads.append(head)
        return head

    def _head_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """In float32: rounded to bfloat16, the best two of the default model's first answer were equal."""
        rows = hidden.reshape(-1, self.hidden_size).to(self._rows_dtype)
        return multiply(rows, self._packed_head).view(*hidden.shape[:-1], -1)

    def _num_extra(self, num_rows: int) -> int:
        return 0

    def _take_layers(self, decoder: Any) -> tuple[list[LayerWeights], Decoder]:
        attention = decoder.layers[0].self_attn
        self._head_dim: int = attention.head_dim
        self._scale: float = attention.scaling
        num_heads = attention.q_proj.out_features // self._head_dim
        self._num_kv_heads: int = attention.k_proj.out_features // self._head_dim
        weights: list[Any] = [linear.weight for layer in decoder.layers for linear in linears_of(layer)]
        dtype = self.dtype if self.dtype != torch.float32 else narrowest(weights)
        layers = []
        while decoder.layers:  # one at a time, so that no more than a layer is in memory twice
            layers.append(_layer_weights(decoder.layers.pop(0), dtype, self._rows_dtype))
        norm = decoder.norm
        return layers, Decoder(
            layers,
            norm.weight.detach().float(),
            norm.variance_epsilon,
            num_heads,
            self._num_kv_heads,
            self._rows_dtype,
        )


def _layer_weights(layer: Any, dtype: torch.dtype, rows: torch.dtype) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    norms = layer.input_layernorm, layer.post_attention_layernorm
    head_norms = [attention.q_norm, attention.k_norm] if hasattr(attention, "q_norm") else []
    return LayerWeights(
        _pack([attention.q_proj, attention.k_proj, attention.v_proj], dtype, rows),
        _pack([attention.o_proj], dtype, rows),
        _pack([mlp.gate_proj, mlp.up_proj], dtype, rows),
        _pack([mlp.down_proj], dtype, rows),
        torch.stack([norm.weight.detach().float() for norm in norms]),
        torch.stack([norm.weight.detach().float() for norm in head_norms])
        if head_norms
        else torch.empty(0, attention.head_dim, dtype=torch.float32),
    )


def _is_known(linear: Any) -> bool:
    weight: Any = linear.weight
    match type(linear).__name__:
        case "Linear4bit":
            state = weight.quant_state
            is_laid_out_anew = getattr(state, "packing_format_for_cpu", False)  # by a first forward
            in_blocks = state.blocksize % GROUP == 0 and state.shape[1] % state.blocksize == 0
            return weight.dtype == torch.uint8 and in_blocks and not is_laid_out_anew
        case "Linear8bitLt":
            return bool(weight.dtype == torch.int8)
        case _:
            return type(linear) is nn.Linear


def _pack(linears: Sequence[Any], dtype: torch.dtype, rows: torch.dtype) -> PanelWeight:
    """One product in place of several of the same input, their outputs one after the other."""
    bias = _joined_bias(linears)
    match type(linears[0]).__name__:
        case "Linear4bit":
            parts = [codes_of(linear.weight) for linear in linears]
            codes, scales = (torch.cat([part[i] for part in parts]) for i in range(2))
            return pack_4bit(codes, scales, parts[0][2], rows, bias)
        case "Linear8bitLt":
            codes = torch.cat([linear.weight.data for linear in linears])
            # Its first forward moves the largest of each output from the weight to the state.
            states = [linear.weight if linear.state.SCB is None else linear.state for linear in linears]
            largest = torch.cat([state.SCB.float() for state in states])
            return pack_int8(codes, largest / 127, bias)
        case _:
            return pack_float(torch.cat([linear.weight.detach().to(dtype) for linear in linears]), bias)


def _joined_bias(linears: Sequence[Any]) -> torch.Tensor | None:
    if all(linear.bias is None for linear in linears):
        return None
    parts = [
        (torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach()).float()
        for linear in linears
    ]
    return torch.cat(parts)


def _pack_head(weight: torch.Tensor, bias: torch.Tensor | None) -> PanelWeight:
    return pack_float(weight.to(narrowest([weight])) if weight.dtype == torch.float32 else weight, bias)
