"""The paper's heads (§2.1.1): head_k(h) = LMHead_k(ResBlock_L(… ResBlock_1(h))).

ResBlock(x) = x + SiLU(W x + b).

Kept as stacked tensors so that all heads run as one batched product. On disk they have the reference code's
names: {k}.{l}.linear.weight / .bias, and {k}.{L}.weight where heads have LM heads of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from medusa_chat.model.block_names import REFERENCE, BlockNames
from medusa_chat.model.heads import MedusaHeads

if TYPE_CHECKING:
    from medusa_chat.model.base import BaseModel  # transformers takes seconds to import

_COPY_TOLERANCE = 0.01  # of bfloat16 rounding


class BlockHeads(MedusaHeads):
    """K heads of L residual blocks; lm_heads (K, V', D), (1, V', D) for all of them, or None to share the
    base's.
    """

    kind = "block"

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        lm_heads: torch.Tensor | None = None,
        vocabulary: torch.Tensor | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(vocabulary, config)
        self.weight = nn.Parameter(weight)  # (L, K, D, D)
        self.bias = nn.Parameter(bias)  # (L, K, 1, D)
        self.lm_heads = None if lm_heads is None else nn.Parameter(lm_heads)

    @classmethod
    def fresh(
        cls, num_heads: int, num_layers: int, hidden_size: int, vocabulary: torch.Tensor | None = None
    ) -> BlockHeads:
        """Untrained heads sharing the base's LM head: all-zero blocks, so each starts as the base itself."""
        return cls(
            torch.zeros(num_layers, num_heads, hidden_size, hidden_size),
            torch.zeros(num_layers, num_heads, 1, hidden_size),
            vocabulary=vocabulary,
        )

    @property
    def num_heads(self) -> int:
        return self.weight.shape[1]

    @property
    def num_layers(self) -> int:
        return self.weight.shape[0]

    @property
    def hidden_size(self) -> int:
        return self.weight.shape[2]

    @property
    def lm_head_size(self) -> int | None:
        return None if self.lm_heads is None else self.lm_heads.shape[1]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (n, D) -> each head's own (K, n, D), before the LM head."""
        x = hidden.expand(self.num_heads, -1, -1)  # (K, n, D)
        for weight, bias in zip(self.weight, self.bias, strict=True):
            x = x + F.silu(torch.baddbmm(bias, x, weight.transpose(1, 2)))
        return x

    def rows(self, hidden: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
        return self(hidden)  # type: ignore[no-any-return]

    def logits_of(self, rows: torch.Tensor, base: BaseModel) -> torch.Tensor:
        if self.lm_heads is None:
            return super().logits_of(rows, base)
        return torch.bmm(rows, self._lm_head_each.transpose(1, 2))

    def logits(self, hidden: torch.Tensor, base: BaseModel) -> torch.Tensor:
        return self.logits_of(self(hidden), base)[:, 0]

    def share_lm_head(self, base: BaseModel) -> None:
        """vLLM's files carry a copy of the base's, perhaps of some rows and in another dtype."""
        if self.lm_heads is None or len(self.lm_heads) > 1:
            return
        rows = base.lm_head_weight if self.vocabulary is None else base.lm_head_weight[self.vocabulary]
        if torch.allclose(self.lm_heads[0].to(rows), rows, rtol=_COPY_TOLERANCE):
            self.lm_heads = None

    @property
    def _lm_head_each(self) -> torch.Tensor:
        """(K, V', D)"""
        assert self.lm_heads is not None
        return self.lm_heads.expand(self.num_heads, -1, -1)

    def tensors(self, names: BlockNames = REFERENCE) -> dict[str, torch.Tensor]:
        tensors = {}
        for head in range(self.num_heads):
            for layer in range(self.num_layers):
                tensors[names.weight(head, layer)] = self.weight[layer, head]
                tensors[names.bias(head, layer)] = self.bias[layer, head, 0]
            if self.lm_heads is not None:
                tensors[names.lm_head(head, self.num_layers)] = self._lm_head_each[head]
        return tensors
