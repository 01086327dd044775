"""What heads are asked to guess, from which rows of known text."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medusa_chat.training.dialogues import Dialogues

_DIALOGUES_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Targets:
    """n rows to learn from. hidden (n, D): of tokens t. tokens (1 + K, n): t + 1, …, t + 1 + K.
    valid (K, n): whether token t + 2 + k still belongs to the answer.
    """

    hidden: torch.Tensor
    tokens: torch.Tensor
    valid: torch.Tensor

    @property
    def ids(self) -> torch.Tensor:
        """(K, n) what head k is to guess: token t + 2 + k."""
        return self.tokens[1:]

    @property
    def path(self) -> torch.Tensor:
        """(K, n) the token that is decided just before that: t + 1 + k."""
        return self.tokens[:-1]


def gather_targets(hidden: torch.Tensor, ids: torch.Tensor, answer: torch.Tensor, num_heads: int) -> Targets:
    """hidden (B, T, D), ids (B, T), answer (B, T) -> the rows whose next token and the one after are answer.

    The row of token t serves, when decoding, once t + 1 is decided: head k (from 0) guesses token t + 2 + k.
    With ids and answer on the CPU nothing waits for hidden's device.
    """
    valid = _valid(answer, num_heads)  # (K, B, T')
    length = valid.shape[2]
    windows = ids[:, 1:].unfold(1, 1 + num_heads, 1).movedim(2, 0)  # (1 + K, B, T')
    rows = valid[0].flatten().nonzero()[:, 0]  # (n,)
    device = hidden.device
    return Targets(
        hidden[:, :length].flatten(0, 1)[sent(rows, device)],
        sent(windows.flatten(1)[:, rows].long(), device),
        sent(valid.flatten(1)[:, rows], device),
    )


def count_targets(dialogues: Dialogues, num_heads: int, known: torch.Tensor | None = None) -> torch.Tensor:
    """(num_dialogues, K) how many tokens each head is to guess; known (V,) bool: leaving out the others."""
    counts = []
    parts = (torch.split(part, _DIALOGUES_AT_ONCE) for part in (dialogues.ids, dialogues.answer))
    for ids, answer in zip(*parts, strict=True):
        valid = _valid(answer, num_heads)
        if known is not None:
            valid &= known[ids[:, 2:].unfold(1, num_heads, 1).long()].movedim(2, 0)
        counts.append(valid.sum(2).T)
    return torch.cat(counts)


def num_taught(dialogues: Dialogues, num_heads: int) -> int:
    """How many heads, of at most so many, could all learn from these or be measured on them: the deeper ones
    need longer answers.
    """
    for count in range(min(num_heads, dialogues.ids.shape[1] - 2), 0, -1):
        if bool(count_targets(dialogues, count).any(0).all()):
            return count
    return 0


def _valid(answer: torch.Tensor, num_heads: int) -> torch.Tensor:
    """answer (B, T) -> (K, B, T') for each row t with all its targets inside the sequence, whether t + 1, …,
    t + 2 + k are all answer.
    """
    runs = answer[:, 1:].unfold(1, 1 + num_heads, 1).int().cumprod(-1)  # (B, T', 1 + K)
    return runs[..., 1:].bool().movedim(2, 0)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device, without waiting for what runs there."""
    if tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
