"""Medusa heads beside a FusedModel: their own LM heads in 4 bits, for a draft needs no precision."""

from __future__ import annotations

import torch

from medusa_chat.kernels.linear import default_tiling
from medusa_chat.model.fused import FusedModel, Product
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.packed import quantize_rows


class FusedHeads:
    """Takes over the heads' LM heads, if they have any."""

    def __init__(self, heads: MedusaHeads, base: FusedModel) -> None:
        self._heads = heads
        self._base = base
        self._lm_heads: list[Product] = []
        num_processors = torch.cuda.get_device_properties(base.device).multi_processor_count
        for lm_head in () if heads.lm_heads is None else heads.lm_heads:
            weight = quantize_rows(lm_head)
            self._lm_heads.append(Product(weight, default_tiling(weight, num_processors)))
        heads.lm_heads = None

    @property
    def num_bytes(self) -> int:
        return self._heads.num_bytes + sum(product.weight.num_bytes for product in self._lm_heads)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """One row's hidden state (1, D) -> logits (K, V) float32."""
        x = self._heads(hidden)  # (K, 1, D)
        if not self._lm_heads:
            return self._base.logits(x[:, 0])
        return torch.cat([product(row).sum(0) for product, row in zip(self._lm_heads, x, strict=True)])
