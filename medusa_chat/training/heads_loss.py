"""The loss of heads of any kind: Σ_k 0.8^k CE_k over the answers' tokens (paper, §2.2.1)."""

from __future__ import annotations

import torch

from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.training.dialogues import Dialogues
from medusa_chat.training.loss import frozen_head_cross_entropy
from medusa_chat.training.targets import Targets, count_targets

_PROBE_ROWS = 512


class HeadsLoss:
    """Of heads that share the base's LM head, on these dialogues. A token outside the heads' vocabulary is
    no target, but deeper heads are told of it like of any other.
    """

    def __init__(
        self, base: BaseModel, heads: MedusaHeads, dialogues: Dialogues, head_discount: float
    ) -> None:
        self._base = base
        self._heads = heads
        self._lm_head = base.lm_head_weight  # (V', D)
        self._number: torch.Tensor | None = None  # (V,) of a token in the vocabulary; -1: not in it
        known = None
        if heads.vocabulary is not None:
            self._lm_head = self._lm_head[heads.vocabulary]
            self._number = torch.full((base.vocab_size,), -1, device=base.device)
            self._number[heads.vocabulary] = torch.arange(len(heads.vocabulary), device=base.device)
            known = (self._number >= 0).cpu()
        self._counts = count_targets(dialogues, heads.num_heads, known)  # (num_dialogues, K)
        self._discount = head_discount ** torch.arange(1, heads.num_heads + 1)  # (K,)

    def shares(self, rows: torch.Tensor) -> torch.Tensor:
        """(K,) what one target of each head counts in the loss of a batch of these dialogues."""
        shares = self._discount / self._counts[rows].sum(0).clamp_min(1)
        if self._base.device.type == "cuda":
            shares = shares.pin_memory()  # else sending them would wait for what runs there
        return shares.to(self._base.device, non_blocking=True)

    def __call__(self, targets: Targets, shares: torch.Tensor) -> torch.Tensor:
        """The part of the batch's loss that these targets are. Gradients reach the heads and hidden."""
        ids, valid = self._numbered(targets)
        states = self._states(targets.hidden, targets.path)  # (K, n, D)
        return frozen_head_cross_entropy(
            states.flatten(0, 1), self._lm_head, ids.flatten(), (shares[:, None] * valid).flatten()
        )

    @torch.no_grad()
    def accuracy(self, targets: Targets) -> list[float]:
        """Top-1 of each head on the first few of the targets in its vocabulary."""
        ids, valid = (part[:, :_PROBE_ROWS] for part in self._numbered(targets))
        states = self._states(targets.hidden[:_PROBE_ROWS], targets.path[:, :_PROBE_ROWS])
        guesses = (states.to(self._lm_head.dtype) @ self._lm_head.T).argmax(-1)  # (K, n)
        right = (guesses == ids) & valid
        return (right.sum(1) / valid.sum(1).clamp_min(1)).tolist()

    def _states(self, hidden: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
        embeddings = self._base.embed(path).detach()
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=hidden.dtype != torch.float32):
            return self._heads.rows(hidden, embeddings)

    def _numbered(self, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
        """(K, n) numbers of the targets in the vocabulary, and which of them count."""
        if self._number is None:
            return targets.ids, targets.valid
        number = self._number[targets.ids]
        return number.clamp_min(0), targets.valid & (number >= 0)
