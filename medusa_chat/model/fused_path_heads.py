"""Path-aware heads beside a FusedModel: a level of a tree in about a dozen launches."""

from __future__ import annotations

import torch
from torch import nn

from medusa_chat.kernels.growing import enter
from medusa_chat.kernels.packing import GROUP, pack_float
from medusa_chat.kernels.pointwise import add_norm, gate
from medusa_chat.model.fused import FusedModel, Product
from medusa_chat.model.packed import quantize_rows
from medusa_chat.model.path_heads import EPS, GatedLayer, PathHeads


class FusedPathHeads(PathHeads):
    """As the PathHeads it is made from; in 4 bits beside a base of 4 bits, for a draft needs no precision."""

    def __init__(self, heads: PathHeads, base: FusedModel) -> None:
        layers = [ProductLayer(layer, base) for layer in heads.layers if isinstance(layer, GatedLayer)]
        super().__init__(layers, heads.depth.data, heads.vocabulary, heads.config)
        self.requires_grad_(False)
        self._fused = layers
        self._ones = torch.ones_like(self.depth[0])

    def go_on(
        self, state: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor, depth: int, base: FusedModel
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`advance` of some rows (B,) of the states (B', D) with the tokens (B,), and what may follow: states
        (B, D) float32, logits (B, V').
        """
        stream, seen = enter(state, rows, base.embedding, tokens, self.depth[depth], EPS)
        first, *others = self._fused
        partial = first.partial(seen)
        for layer in others:
            stream, normed = add_norm(stream, partial, self._ones, EPS)
            partial = layer.partial(normed)
        stream, _ = add_norm(stream, partial, self._ones, EPS)
        return stream, self.shared_logits(stream.to(self.depth.dtype), base)


class ProductLayer(nn.Module):
    """As the GatedLayer it is made from."""

    def __init__(self, layer: GatedLayer, base: FusedModel) -> None:
        super().__init__()
        self._gate_up, self._down = (draft_product(weight, base) for weight in (layer.gate_up, layer.down))

    @property
    def num_bytes(self) -> int:
        return self._gate_up.weight.num_bytes + self._down.weight.num_bytes

    def partial(self, u: torch.Tensor) -> torch.Tensor:
        """(n, D or 2D) -> partial sums (S, n, D)."""
        return self._down(gate(self._gate_up(u)))

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """(n, D or 2D) -> (n, D)."""
        return self.partial(u).float().sum(0).to(u.dtype)


def draft_product(weight: torch.Tensor, base: FusedModel) -> Product:
    """(N, K) weights as a product, quantised as the base is if they can be."""
    packed = pack_float([weight.data])
    if base.is_4bit and weight.shape[1] % GROUP == 0:
        packed = quantize_rows(weight.data, base.lasting)
    return base.cut(packed)
