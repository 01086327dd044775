"""Medusa-1: heads on a frozen base, by cross-entropy on answer tokens (paper, §2.2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.memory import free_bytes
from medusa_chat.training.dialogues import Dialogues
from medusa_chat.training.heads_loss import HeadsLoss
from medusa_chat.training.loop import Batches, TrainingLoop
from medusa_chat.training.memory import medusa1_need
from medusa_chat.training.optimizer import adamw
from medusa_chat.training.recipe import Recipe
from medusa_chat.training.targets import Targets, gather_targets
from medusa_chat.training.workers import ALONE, Workers


class Medusa1:
    """Heads that learn in place from a base that is only read."""

    def __init__(self, base: BaseModel, heads: MedusaHeads, dialogues: Dialogues, recipe: Recipe) -> None:
        self._base = base
        self._heads = heads
        self._dialogues = dialogues
        self._loss = HeadsLoss(base, heads, dialogues, recipe.head_discount)
        self._last: Targets | None = None
        length = dialogues.ids.shape[1]
        self.at_once = max(1, medusa1_need(base, heads).at_once(length, free_bytes(base.device)))

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        return dict(self._heads.named_parameters())

    def learn(self, part: torch.Tensor, batch: torch.Tensor, done: float) -> torch.Tensor:
        self._last = self.targets(part)
        loss = self._loss(self._last, self._loss.shares(batch))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def accuracy(self) -> list[float]:
        assert self._last is not None
        return self._loss.accuracy(self._last)

    @torch.no_grad()
    def targets(self, rows: torch.Tensor) -> Targets:
        """Of these dialogues, from one forward of the base."""
        ids, answer = self._dialogues.ids[rows], self._dialogues.answer[rows]
        hidden = self._base.hidden_states(ids.to(self._base.device))
        return gather_targets(hidden, ids, answer, self._heads.num_heads)


def medusa1_loop(
    base: BaseModel,
    heads: MedusaHeads,
    dialogues: Dialogues,
    recipe: Recipe,
    folder: Path,
    workers: Workers = ALONE,
) -> TrainingLoop:
    """Trains heads in place. Goes on from the checkpoint in `folder`, if any.

    Raises UsageError for a checkpoint of other settings, CheckpointError for a damaged one.
    """
    learner = Medusa1(base, heads, dialogues, recipe)
    optimizer = adamw(heads.parameters(), recipe.learning_rate, recipe.weight_decay, base.device)
    batches = Batches(len(dialogues.ids), recipe.batch_size, recipe.epochs, recipe.seed)
    settings = _settings(base, dialogues, recipe)
    checkpoint = folder / "checkpoint.pt"
    return TrainingLoop(learner, optimizer, batches, recipe.warmup_steps, settings, checkpoint, workers)


def _settings(base: BaseModel, dialogues: Dialogues, recipe: Recipe) -> dict[str, Any]:
    """What a checkpoint can't be gone on from with another value of; a learning rate that failed may be."""
    settings = asdict(recipe)
    del settings["learning_rate"]
    return {**settings, "base": base.fingerprint, "dialogues": dialogues.fingerprint}
