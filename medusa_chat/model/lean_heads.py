"""Path-aware heads on the CPU, over weights rounded to 8 bits, in our own kernels."""

from __future__ import annotations

import torch
from torch import nn

from medusa_chat.kernels.cpu.decoder import gated_layer, rows_dtype
from medusa_chat.kernels.cpu.packing import joined, quantize_int8
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.path_heads import GatedLayer, PathHeads


def lean_heads(heads: MedusaHeads) -> MedusaHeads:
    """PathHeads with packed layers in place of those in `heads`; other kinds are one small product."""
    if not isinstance(heads, PathHeads) or heads.depth.device.type != "cpu":
        return heads
    layers = [PackedGatedLayer(layer) for layer in heads.layers if isinstance(layer, GatedLayer)]
    return PathHeads(layers, heads.depth.data, heads.vocabulary, heads.config).requires_grad_(False)


class PackedGatedLayer(nn.Module):
    """As the GatedLayer it is made from."""

    def __init__(self, layer: GatedLayer) -> None:
        super().__init__()
        self._gate_up = quantize_int8(joined(list(layer.gate_up.detach().chunk(2))))
        self._down = quantize_int8(layer.down.detach())

    @property
    def num_bytes(self) -> int:
        return self._gate_up.num_bytes + self._down.num_bytes

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return gated_layer(u.to(rows_dtype(u.dtype)), self._gate_up, self._down).to(u.dtype)
