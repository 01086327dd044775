"""Path-aware heads on the CPU, over weights packed once and rounded to 8 bits (model/linear.py)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.linear import draft_linear
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
        self._gate_up, self._down = draft_linear(layer.gate_up), draft_linear(layer.down)

    @property
    def num_bytes(self) -> int:
        return self._gate_up.num_bytes + self._down.num_bytes

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        gate, up = self._gate_up(u.to(self._gate_up.dtype)).chunk(2, -1)
        inner = F.silu(gate).mul_(up)
        return self._down(inner.to(self._down.dtype)).to(u.dtype)
