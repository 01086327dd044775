"""Path-aware heads on the CPU, over weights rounded to 8 bits, in our own kernels."""

from __future__ import annotations

import torch
from torch import nn

from medusa_chat.kernels.cpu.decoder import GatedWeights, advance
from medusa_chat.kernels.cpu.packing import joined, quantize_int8
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.path_heads import GatedLayer, PathHeads


def lean_heads(heads: MedusaHeads) -> MedusaHeads:
    """LeanPathHeads in place of PathHeads; other kinds are one small product."""
    if not isinstance(heads, PathHeads) or heads.depth.device.type != "cpu":
        return heads
    return LeanPathHeads(heads).requires_grad_(False)


class LeanPathHeads(PathHeads):
    """As the heads it is made from."""

    def __init__(self, heads: PathHeads) -> None:
        layers = [PackedGatedLayer(layer) for layer in heads.layers if isinstance(layer, GatedLayer)]
        super().__init__(layers, heads.depth.data, heads.vocabulary, heads.config)
        self._weights = [layer.weights for layer in layers]

    def advance(self, state: torch.Tensor, embedding: torch.Tensor, depth: int) -> torch.Tensor:
        return advance(state, embedding, self.depth[depth], self._weights)


class PackedGatedLayer(nn.Module):
    """The weights of a GatedLayer."""

    def __init__(self, layer: GatedLayer) -> None:
        super().__init__()
        self.weights = GatedWeights(
            quantize_int8(joined(list(layer.gate_up.detach().chunk(2)))), quantize_int8(layer.down.detach())
        )

    @property
    def num_bytes(self) -> int:
        return self.weights.gate_up.num_bytes + self.weights.down.num_bytes
