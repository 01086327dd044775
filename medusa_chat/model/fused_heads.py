"""Medusa heads beside a FusedModel: their own LM heads in 4 bits, for a draft needs no precision."""

from __future__ import annotations

import torch

from medusa_chat.model.base import BaseModel
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.fused import FusedModel
from medusa_chat.model.fused_path_heads import FusedPathHeads
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.packed import quantize_rows
from medusa_chat.model.path_heads import PathHeads


def fused_heads(heads: MedusaHeads, base: FusedModel) -> MedusaHeads:
    """Heads in place of `heads`, whose own LM heads, if they have any, are gone then."""
    if isinstance(heads, BlockHeads) and heads.lm_heads is not None:
        return FusedHeads(heads, base)
    heads = heads.to(base.device)
    return FusedPathHeads(heads, base) if isinstance(heads, PathHeads) else heads


class FusedHeads(BlockHeads):
    """BlockHeads with LM heads of their own, which it takes over, one after the other: whole they may take
    more than the base does.
    """

    def __init__(self, heads: BlockHeads, base: FusedModel) -> None:
        lm_heads, heads.lm_heads = heads.lm_heads, None
        assert lm_heads is not None
        heads.to(base.device)
        super().__init__(heads.weight, heads.bias, vocabulary=heads.vocabulary, config=heads.config)
        self.requires_grad_(False)
        each = lm_heads.expand(heads.num_heads, -1, -1)
        self._products = [base.cut(quantize_rows(lm_head.to(base.device))) for lm_head in each]

    @property
    def num_bytes(self) -> int:
        return super().num_bytes + sum(product.weight.num_bytes for product in self._products)

    def logits(self, hidden: torch.Tensor, base: BaseModel) -> torch.Tensor:
        """One row's hidden state (1, D) -> logits (K, V) float32."""
        rows = self(hidden)  # (K, 1, D)
        return torch.cat([product(row).sum(0) for product, row in zip(self._products, rows, strict=True)])
