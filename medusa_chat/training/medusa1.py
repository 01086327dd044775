"""Medusa-1: heads on a frozen base, by cross-entropy on answer tokens (paper, §2.2.1)."""

from __future__ import annotations

import io
import math
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from medusa_chat.errors import CheckpointError, MedusaError, UsageError
from medusa_chat.files import write_whole
from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.training.dialogues import Dialogues
from medusa_chat.training.loss import frozen_head_cross_entropy
from medusa_chat.training.recipe import Recipe, first_difference

_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_STEPS_BETWEEN_REPORTS = 10
_PROBE_ROWS = 512


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """loss: of the whole sum. accuracy: top-1 of each head on a few rows of the batch just trained on."""

    step: int
    num_steps: int
    loss: float
    accuracy: list[float]


@dataclass(frozen=True, slots=True)
class Targets:
    """Rows to learn from. hidden (n, D); ids (K, n): the token k + 2 places on; valid (K, n): whether that
    token still belongs to the answer.
    """

    hidden: torch.Tensor
    ids: torch.Tensor
    valid: torch.Tensor


def gather_targets(hidden: torch.Tensor, ids: torch.Tensor, answer: torch.Tensor, num_heads: int) -> Targets:
    """hidden (B, T, D), ids (B, T), answer (B, T) -> the rows whose next token and the one after are answer.

    The row of token t serves, when decoding, once t + 1 is decided: head k (from 0) guesses token t + 2 + k.
    """
    length = ids.shape[1] - 1 - num_heads  # rows with all their targets inside the sequence
    run = answer[:, 1 : 1 + length]  # (B, length): t + 1 is answer
    shifted_ids, shifted_valid = [], []
    for head in range(num_heads):
        run = run & answer[:, 2 + head : 2 + head + length]
        shifted_ids.append(ids[:, 2 + head : 2 + head + length])
        shifted_valid.append(run)
    rows = shifted_valid[0]
    return Targets(
        hidden[:, :length][rows],
        torch.stack([shifted[rows] for shifted in shifted_ids]).long(),
        torch.stack([valid[rows] for valid in shifted_valid]),
    )


def has_targets(dialogues: Dialogues, num_heads: int) -> bool:
    """Whether there is any row to learn from or to measure on."""
    return gather_targets(dialogues.ids, dialogues.ids, dialogues.answer, num_heads).ids.numel() > 0


class Medusa1Trainer:
    """Trains heads in place and only reads the base. Goes on from the checkpoint in `folder`, if any.

    Raises UsageError for a checkpoint of other settings, CheckpointError for a damaged one.
    """

    def __init__(
        self, base: BaseModel, heads: MedusaHeads, dialogues: Dialogues, recipe: Recipe, folder: Path
    ) -> None:
        self._base = base
        self._heads = heads
        self._dialogues = dialogues
        self._recipe = recipe
        self._checkpoint = folder / "checkpoint.pt"
        self._batch_size = min(recipe.batch_size, len(dialogues.ids))
        self._steps_per_epoch = len(dialogues.ids) // self._batch_size
        self.num_steps = self._steps_per_epoch * recipe.epochs
        self._settings = _settings(base, dialogues, recipe)
        self._optimizer = torch.optim.AdamW(
            heads.parameters(), recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
        )
        self.step = self._saved_step = self._resume()

    def run(self, on_report: Callable[[TrainingReport], None]) -> None:
        """Trains to the end. Raises MedusaError at a loss that is not a number; the last checkpoint stays."""
        saved = time.monotonic()
        losses: list[torch.Tensor] = []  # since the last look at them: each look waits for the device
        while self.step < self.num_steps:
            targets = self._targets(self.step)
            losses.append(self._train_step(targets))
            self.step += 1
            report_due = self.step % _STEPS_BETWEEN_REPORTS == 0 or self.step == self.num_steps
            save_due = time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS
            if not (report_due or save_due):
                continue
            loss = self._check(losses)
            losses.clear()
            if save_due:
                self._save()
                saved = time.monotonic()
            if report_due:
                on_report(TrainingReport(self.step, self.num_steps, loss, self._accuracy(targets)))
        if self.step > self._saved_step:
            self._save()

    def _check(self, losses: Sequence[torch.Tensor]) -> float:
        """The latest of the last steps' losses. Raises MedusaError unless they and the heads are finite."""
        values = torch.stack(list(losses)).tolist()
        finite = [math.isfinite(value) for value in values]
        # The last step's own update shows only in the weights.
        finite[-1] &= all(bool(parameter.isfinite().all()) for parameter in self._heads.parameters())
        if not all(finite):
            step = self.step - len(finite) + 1 + finite.index(False)
            kept = f"goes on from step {self._saved_step} ({self._checkpoint})"
            then = kept if self._saved_step else "starts anew"
            raise MedusaError(
                f"The loss is not a number at step {step}; run it again with a lower --learning-rate "
                f"or with --dtype float32, and it {then}."
            )
        return float(values[-1])

    def _save(self) -> None:
        content = io.BytesIO()
        state = {
            "settings": self._settings,
            "step": self.step,
            "heads": self._heads.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        torch.save(state, content)
        write_whole(self._checkpoint, content.getbuffer())
        self._saved_step = self.step

    def _resume(self) -> int:
        if not self._checkpoint.exists():
            return 0
        try:
            state = torch.load(self._checkpoint, map_location=self._base.device, weights_only=True)
            settings, step = dict(state["settings"]), int(state["step"])
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError):
            raise CheckpointError(
                f"{self._checkpoint} is damaged; remove it and run train again: the dialogues are kept."
            ) from None
        difference = first_difference(self._settings, settings)
        if difference is not None:
            raise UsageError(
                f"{self._checkpoint} is of a training with {difference}; "
                "use the same settings, or remove that file to train anew."
            )
        self._heads.load_state_dict(state["heads"])
        self._optimizer.load_state_dict(state["optimizer"])
        return step

    def _targets(self, step: int) -> Targets:
        epoch, place = divmod(step, self._steps_per_epoch)
        # The order is a function of seed and epoch alone, so a resumed run sees the same batches.
        shuffle = torch.Generator().manual_seed(self._recipe.seed + epoch)
        order = torch.randperm(len(self._dialogues.ids), generator=shuffle)
        rows = order[place * self._batch_size : (place + 1) * self._batch_size]
        return self.hidden_targets(rows)

    @torch.no_grad()
    def hidden_targets(self, rows: torch.Tensor) -> Targets:
        """Targets of these dialogues, from one forward of the base."""
        ids = self._dialogues.ids[rows].to(self._base.device)
        answer = self._dialogues.answer[rows].to(self._base.device)
        hidden = self._base.forward(ids, self._base.new_cache(ids.shape[1]))
        return gather_targets(hidden, ids, answer, self._heads.num_heads)

    def _train_step(self, targets: Targets) -> torch.Tensor:
        """One optimiser step; returns the loss (a tensor, so that nothing waits for the device)."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()
        loss = self._loss(targets)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()

    def _loss(self, targets: Targets) -> torch.Tensor:
        guesses = self._guesses(targets.hidden)  # (K, n, D)
        total = torch.zeros((), device=guesses.device)
        for head in range(self._heads.num_heads):
            valid = targets.valid[head]
            discount = self._recipe.head_discount ** (head + 1)
            total = total + discount * frozen_head_cross_entropy(
                guesses[head][valid], self._base.lm_head_weight, targets.ids[head][valid]
            ) / valid.sum().clamp_min(1)
        return total

    def _guesses(self, hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=hidden.dtype != torch.float32):
            guesses: torch.Tensor = self._heads(hidden)
        return guesses

    @torch.no_grad()
    def _accuracy(self, targets: Targets) -> list[float]:
        ids, valid = targets.ids[:, :_PROBE_ROWS], targets.valid[:, :_PROBE_ROWS]
        guesses = self._guesses(targets.hidden[:_PROBE_ROWS]).to(self._base.dtype)
        right = (self._base.logits(guesses).argmax(-1) == ids) & valid  # (K, rows)
        return (right.sum(1) / valid.sum(1).clamp_min(1)).tolist()

    def _learning_rate(self) -> float:
        recipe = self._recipe
        if self.step < recipe.warmup_steps:
            return recipe.learning_rate * (self.step + 1) / recipe.warmup_steps
        done = (self.step - recipe.warmup_steps) / max(1, self.num_steps - recipe.warmup_steps)
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _settings(base: BaseModel, dialogues: Dialogues, recipe: Recipe) -> dict[str, Any]:
    """What a checkpoint can't be gone on from with another value of; a learning rate that failed may be."""
    settings = asdict(recipe)
    del settings["learning_rate"]
    return {**settings, "base": base.fingerprint, "dialogues": dialogues.fingerprint}
