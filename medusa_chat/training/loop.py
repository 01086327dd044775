"""What every training does: batches in an order of their own, a learning rate that rises and falls, reports,
checkpoints to go on from, and a stop at a loss that is no number.
"""

from __future__ import annotations

import io
import math
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from medusa_chat.errors import CheckpointError, MedusaError, UsageError
from medusa_chat.files import write_whole
from medusa_chat.training.recipe import first_difference
from medusa_chat.training.workers import ALONE, Workers

_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_STEPS_BETWEEN_REPORTS = 10


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """loss: of the whole sum. accuracy: top-1 of each head on a few rows of the batch just trained on."""

    step: int
    num_steps: int
    loss: float
    accuracy: list[float]


class Learner(Protocol):
    """What is trained, and how it learns from a batch. at_once: how many dialogues `learn` may be given."""

    at_once: int

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """What trains, by the names it has in a checkpoint."""

    def learn(self, part: torch.Tensor, batch: torch.Tensor, done: float) -> torch.Tensor:
        """Adds up the gradients of what the dialogues numbered in part (b,) contribute to the loss of a whole
        batch (B,); returns that much of the loss (a tensor, so that nothing waits for the device). done:
        share of the training that lies behind.
        """

    def accuracy(self) -> list[float]:
        """Top-1 of each head on a few rows of the last batch."""


@dataclass(frozen=True, slots=True)
class Batches:
    """Which dialogues make up the batch of which step: a function of seed and epoch alone, so that a resumed
    run sees the same ones. The few that don't fill an epoch's last batch are left out.
    """

    num_dialogues: int
    batch_size: int
    epochs: int
    seed: int

    @property
    def num_steps(self) -> int:
        return self._steps_per_epoch * self.epochs

    def rows(self, step: int) -> torch.Tensor:
        """Numbers (B,) of the dialogues of a step, from 0."""
        epoch, place = divmod(step, self._steps_per_epoch)
        shuffle = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(self.num_dialogues, generator=shuffle)
        return order[place * self._size : (place + 1) * self._size]

    @property
    def _size(self) -> int:
        return min(self.batch_size, self.num_dialogues)

    @property
    def _steps_per_epoch(self) -> int:
        return self.num_dialogues // self._size


def share_of_peak(step: int, warmup_steps: int, num_steps: int) -> float:
    """Of the learning rate at a step, from 0: it rises in a line, then falls as half a cosine."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


class TrainingLoop:
    """Trains in place; goes on from the checkpoint, if there is one. The optimiser's learning rates are the
    highest ones. settings: what a checkpoint can't be gone on from with others of, as plain data.

    Raises UsageError for a checkpoint of other settings, CheckpointError for a damaged one.
    """

    def __init__(
        self,
        learner: Learner,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        warmup_steps: int,
        settings: Mapping[str, Any],
        checkpoint: Path,
        workers: Workers = ALONE,
    ) -> None:
        self._learner = learner
        self._optimizer = optimizer
        self._batches = batches
        self._warmup_steps = warmup_steps
        self._settings = {**settings, "optimizer": type(optimizer).__name__}
        self._checkpoint = checkpoint
        self._workers = workers
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self.num_steps = batches.num_steps
        self.step = self._saved_step = self._resume()

    def run(self, on_report: Callable[[TrainingReport], None]) -> None:
        """Trains to the end. Raises MedusaError at a loss that is not a number; the last checkpoint stays."""
        saved = time.monotonic()
        losses: list[torch.Tensor] = []  # since the last look at them: each look waits for the device
        while self.step < self.num_steps:
            losses.append(self._train_step())
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
                on_report(TrainingReport(self.step, self.num_steps, loss, self._learner.accuracy()))
        if self.step > self._saved_step:
            self._save()

    def _train_step(self) -> torch.Tensor:
        share = share_of_peak(self.step, self._warmup_steps, self.num_steps)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share
        weights = list(self._learner.weights.values())
        for weight in weights:
            weight.grad = None
        batch, done = self._batches.rows(self.step), self.step / self.num_steps
        loss = torch.zeros((), device=weights[0].device)
        for part in torch.split(self._workers.share(batch), self._learner.at_once):
            if len(part):
                loss += self._learner.learn(part, batch, done)
        for weight in weights:
            if weight.grad is None:  # there are fewer dialogues in a batch than workers
                weight.grad = torch.zeros_like(weight)
        self._workers.add_up([loss, *(weight.grad for weight in weights if weight.grad is not None)])
        self._optimizer.step()
        return loss

    def _check(self, losses: Sequence[torch.Tensor]) -> float:
        """The latest of the last steps' losses. Raises MedusaError unless they and the weights are finite."""
        values = torch.stack(list(losses)).tolist()
        finite = [math.isfinite(value) for value in values]
        # The last step's own update shows only in the weights.
        finite[-1] &= all(bool(weight.isfinite().all()) for weight in self._learner.weights.values())
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
        if self._workers.is_first:
            self._write()
        self._saved_step = self.step

    def _write(self) -> None:
        content = io.BytesIO()
        state = {
            "settings": self._settings,
            "step": self.step,
            "weights": {name: weight.detach() for name, weight in self._learner.weights.items()},
            "optimizer": self._optimizer.state_dict(),
        }
        torch.save(state, content)
        write_whole(self._checkpoint, content.getbuffer())

    @torch.no_grad()
    def _resume(self) -> int:
        if not self._checkpoint.exists():
            return 0
        try:
            # On the CPU: the optimiser brings to the device what belongs there.
            state = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
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
        for name, weight in self._learner.weights.items():
            weight.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        return step
