"""Wider heads: head_k(h) = h + W2 SiLU(W1 h + b1), by the base's LM head.

On disk: {k}.mlp.up.weight (F, D), {k}.mlp.up.bias (F), {k}.mlp.down.weight (D, F).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from medusa_chat.model.heads import MedusaHeads

if TYPE_CHECKING:
    from medusa_chat.model.base import BaseModel  # transformers takes seconds to import


class MlpHeads(MedusaHeads):
    """K residual MLPs with F hidden units each, run as two batched products."""

    kind = "mlp"

    def __init__(
        self,
        up: torch.Tensor,
        bias: torch.Tensor,
        down: torch.Tensor,
        vocabulary: torch.Tensor | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(vocabulary, config)
        self.up = nn.Parameter(up)  # (K, F, D)
        self.bias = nn.Parameter(bias)  # (K, 1, F)
        self.down = nn.Parameter(down)  # (K, D, F)

    @classmethod
    def fresh(
        cls, num_heads: int, width: int, hidden_size: int, vocabulary: torch.Tensor | None = None
    ) -> MlpHeads:
        """Untrained: W2 is zero, so each head starts as the base itself. width: F."""
        up = torch.randn(num_heads, width, hidden_size) * hidden_size**-0.5
        return cls(
            up, torch.zeros(num_heads, 1, width), torch.zeros(num_heads, hidden_size, width), vocabulary
        )

    @property
    def num_heads(self) -> int:
        return self.up.shape[0]

    @property
    def num_layers(self) -> int:
        return 1

    @property
    def hidden_size(self) -> int:
        return self.up.shape[2]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (n, D) -> each head's own (K, n, D), before the LM head."""
        x = hidden.expand(self.num_heads, -1, -1)  # (K, n, D)
        inner = F.silu(torch.baddbmm(self.bias, x, self.up.transpose(1, 2)))  # (K, n, F)
        return torch.baddbmm(x, inner, self.down.transpose(1, 2))

    def rows(self, hidden: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
        return self(hidden)  # type: ignore[no-any-return]

    def logits(self, hidden: torch.Tensor, base: BaseModel) -> torch.Tensor:
        return self.logits_of(self(hidden), base)[:, 0]

    def tensors(self) -> dict[str, torch.Tensor]:
        tensors = {}
        for head in range(self.num_heads):
            tensors[f"{head}.mlp.up.weight"] = self.up[head]
            tensors[f"{head}.mlp.up.bias"] = self.bias[head, 0]
            tensors[f"{head}.mlp.down.weight"] = self.down[head]
        return tensors
