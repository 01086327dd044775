"""Medusa heads of residual blocks beside a FusedModel: in 4 bits, for a draft needs no precision, and each
layer of all heads in two launches.
"""

from __future__ import annotations

import torch

from medusa_chat.kernels.linear import linear, linear_each
from medusa_chat.kernels.packing import GROUP
from medusa_chat.kernels.pointwise import add_silu
from medusa_chat.model.base import BaseModel
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.fused import FusedModel, Product, summed
from medusa_chat.model.fused_path_heads import FusedPathHeads
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.packed import quantize_rows
from medusa_chat.model.path_heads import PathHeads


def fused_heads(heads: MedusaHeads, base: FusedModel) -> MedusaHeads:
    """Heads in place of `heads`, which may lie on the host, and whose weights may be gone then."""
    if isinstance(heads, BlockHeads) and heads.hidden_size % GROUP == 0:
        return FusedHeads(heads, base)
    heads = heads.to(base.device)
    return FusedPathHeads(heads, base) if isinstance(heads, PathHeads) else heads


class FusedHeads(MedusaHeads):
    """As the BlockHeads it is made from, whose weights it takes over, for one hidden state."""

    kind = BlockHeads.kind

    def __init__(self, heads: BlockHeads, base: FusedModel) -> None:
        super().__init__(None if heads.vocabulary is None else heads.vocabulary.to(base.device), heads.config)
        self._sizes = heads.num_heads, heads.num_layers, heads.hidden_size, heads.lm_head_size
        self._blocks = [
            base.cut(quantize_rows(weight.flatten(0, 1), base.lasting, bias.flatten()))
            for weight, bias in zip(heads.weight.data, heads.bias.data, strict=True)
        ]
        heads.weight.data = heads.weight.data.new_empty(0)
        self._lm_heads: Product | None = None
        if heads.lm_heads is not None:
            self._lm_heads = base.cut(quantize_rows(heads.lm_heads.data.flatten(0, 1), base.lasting))
            heads.lm_heads = None

    @property
    def num_heads(self) -> int:
        return self._sizes[0]

    @property
    def num_layers(self) -> int:
        return self._sizes[1]

    @property
    def hidden_size(self) -> int:
        return self._sizes[2]

    @property
    def lm_head_size(self) -> int | None:
        return self._sizes[3]

    @property
    def num_bytes(self) -> int:
        products = self._blocks if self._lm_heads is None else [*self._blocks, self._lm_heads]
        return sum(product.weight.num_bytes for product in products)

    def logits(self, hidden: torch.Tensor, base: BaseModel) -> torch.Tensor:
        """One row's hidden state (1, D) -> logits (K, V')."""
        x = hidden.expand(self.num_heads, -1)  # (K, D)
        for block in self._blocks:
            x = add_silu(x, linear_each(x, block.weight, block.tiling))
        if self._lm_heads is None:
            return self.shared_logits(x, base)
        weight, tiling = self._lm_heads.weight, self._lm_heads.tiling
        is_one = weight.num_outputs == self.lm_head_size
        return summed((linear if is_one else linear_each)(x, weight, tiling, torch.float32))
