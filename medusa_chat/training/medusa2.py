"""Medusa-2: an adapter on the base learns together with heads that Medusa-1 has trained (paper, §2.2.2).

L = L_backbone + λ0 · L_heads. The heads' loss reaches the adapter through the hidden states, so that the base
learns to say early what it will say next; the backbone's loss keeps what it says as it was. Self-distilled
(§2.3.2) that is the KL divergence from the base without its adapter, on the answers that it gave itself.

Tried self-distilled on the default model and its heads as Medusa-1 leaves them, 48 dialogues of 640 tokens a
step; tokens a step on MT-Bench (80 first turns × 256 tokens, greedy, static trees of 64 nodes, heads alone,
two H100s, but for the first row, whose heads were older and brought 2.87 by themselves):

    adapter's rate   heads'   λ0     steps   tokens a step   perplexity   greedy tokens kept
    (heads alone)                                     3.11
    1e-4             4e-4     0.01     250            2.80       +0.16%                99.1%
    3e-4             3e-4     0.03     380            3.28       +0.33%                98.4%
    3e-4             3e-4     0.1      380            3.30       +0.96%                97.2%

The paper's rates and λ0, the first row, undo what the heads have learnt before the adapter gains anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from medusa_chat.model.adapter import Adapter
from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.memory import free_bytes
from medusa_chat.training.dialogues import Dialogues
from medusa_chat.training.divergence import divergence
from medusa_chat.training.heads_loss import HeadsLoss
from medusa_chat.training.loop import Batches, TrainingLoop
from medusa_chat.training.loss import frozen_head_cross_entropy
from medusa_chat.training.memory import medusa2_need
from medusa_chat.training.optimizer import adamw
from medusa_chat.training.recipe import AdapterRecipe, Recipe
from medusa_chat.training.targets import Targets, gather_targets, sent
from medusa_chat.training.workers import ALONE, Workers


class Medusa2:
    """An adapter and heads that learn in place; the base's own weights are only read."""

    def __init__(
        self,
        base: BaseModel,
        heads: MedusaHeads,
        dialogues: Dialogues,
        recipe: Recipe,
        adapter_recipe: AdapterRecipe,
    ) -> None:
        self.base = base
        self.heads = heads
        self.dialogues = dialogues
        self.recipe = recipe
        self.adapter_recipe = adapter_recipe
        torch.manual_seed(recipe.seed)
        self.adapter = Adapter(base, adapter_recipe.rank, adapter_recipe.alpha, adapter_recipe.dropout)
        self._heads_loss = HeadsLoss(base, heads, dialogues, recipe.head_discount)
        self._last: Targets | None = None
        self._num_told = dialogues.answer[:, 1:].sum(1)  # (num_dialogues,) tokens that the base has chosen
        self.at_once = self._fit_memory()

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        return {**self.adapter.weights, **dict(self.heads.named_parameters())}

    def learn(self, part: torch.Tensor, batch: torch.Tensor, done: float) -> torch.Tensor:
        ids, answer = self.dialogues.ids[part], self.dialogues.answer[part]
        told = sent(_next_is_answer(answer), self.base.device)
        on_device = sent(ids, self.base.device)
        # Dropout follows from the place in the training, so that a resumed one goes on alike.
        torch.manual_seed(self.recipe.seed + round(done * 2**32) + int(part[0]))
        hidden = self._hidden(on_device)  # (B, T, D)
        targets = gather_targets(hidden, ids, answer, self.heads.num_heads)
        self._last = replace(targets, hidden=targets.hidden.detach())
        heads_loss = self._heads_loss(targets, self._heads_loss.shares(batch))
        num_told = max(1, int(self._num_told[batch].sum()))
        backbone_loss = self._backbone_loss(hidden, on_device, told) / num_told
        loss = backbone_loss + self._heads_weight(done) * heads_loss
        # Adam doesn't mind a gradient's scale, but float16 would lose that of a mean over so many tokens.
        (loss * num_told).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def accuracy(self) -> list[float]:
        assert self._last is not None
        return self._heads_loss.accuracy(self._last)

    def _backbone_loss(self, hidden: torch.Tensor, ids: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """Σ over the rows `told` (n,) among the B · T of hidden (B, T, D)."""
        rows = hidden.flatten(0, 1)[told]  # (n, D)
        if self.adapter_recipe.backbone_loss == "labels":
            next_ids = ids.flatten()[told + 1].long()
            every = torch.ones(len(rows), device=rows.device)
            return frozen_head_cross_entropy(rows, self.base.lm_head_weight, next_ids, every)
        with torch.no_grad(), self.adapter.switched_off():
            teacher_rows = self._hidden(ids).flatten(0, 1)[told]
        return divergence(rows, teacher_rows, self.base.logits, self.base.vocab_size)

    def _hidden(self, ids: torch.Tensor) -> torch.Tensor:
        base = self.base
        with torch.autocast(base.device.type, base.dtype, enabled=base.dtype != torch.float32):
            return base.hidden_states(ids)

    def _heads_weight(self, done: float) -> float:
        """λ0, which self-distilled grows as the paper has it."""
        is_labels = self.adapter_recipe.backbone_loss == "labels"
        return self.adapter_recipe.heads_weight * (1.0 if is_labels else math.sin(0.5 * math.pi * done))

    def _fit_memory(self) -> int:
        """How many dialogues to learn from at once. Only where not even one fits layers run again on the way
        back, which takes a third more time.
        """
        free, length = free_bytes(self.base.device), self.dialogues.ids.shape[1]
        most = medusa2_need(self.base, self.heads, self.adapter, remembers_all=True).at_once(length, free)
        if most == 0:
            self.adapter.remember_less()
            least = medusa2_need(self.base, self.heads, self.adapter, remembers_all=False)
            most = least.at_once(length, free)
        return max(1, most)


def medusa2_loop(learner: Medusa2, folder: Path, workers: Workers = ALONE) -> TrainingLoop:
    """Trains adapter and heads in place. Goes on from the checkpoint in `folder`, if any.

    Raises UsageError for a checkpoint of other settings, CheckpointError for a damaged one.
    """
    recipe, second = learner.recipe, learner.adapter_recipe
    rate = second.learning_rate
    groups: list[dict[str, Any]] = [
        {"params": list(learner.adapter.weights.values())},
        {"params": list(learner.heads.parameters()), "lr": second.heads_speed * rate},
    ]
    optimizer = adamw(groups, rate, recipe.weight_decay, learner.base.device)
    num_dialogues = len(learner.dialogues.ids)
    batches = Batches(num_dialogues, recipe.batch_size, second.epochs, recipe.seed)
    settings = _settings(learner)
    checkpoint = folder / "checkpoint-medusa2.pt"
    return TrainingLoop(learner, optimizer, batches, second.warmup_steps, settings, checkpoint, workers)


def _settings(learner: Medusa2) -> dict[str, Any]:
    """What a checkpoint can't be gone on from with another value of; a learning rate that failed may be."""
    first, second = asdict(learner.recipe), asdict(learner.adapter_recipe)
    for settings in (first, second):
        del settings["learning_rate"]
    return {
        **first,
        **{f"adapter_{name}": value for name, value in second.items()},
        "base": learner.base.fingerprint,
        "dialogues": learner.dialogues.fingerprint,
    }


def _next_is_answer(answer: torch.Tensor) -> torch.Tensor:
    """answer (B, T) -> (n,) those of the B · T rows whose next token the base has chosen."""
    return F.pad(answer[:, 1:], (0, 1)).flatten().nonzero()[:, 0]
