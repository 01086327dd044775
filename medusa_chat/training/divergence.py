"""KL divergence through a frozen LM head, in chunks, so that the (rows, V) logits never exist at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from medusa_chat.training.loss import chunk_rows

# Both models' logits and log-probabilities, in float32, and their gradients exist at once.
_TIMES_AS_LARGE = 4
Logits = Callable[[torch.Tensor], torch.Tensor]


class _Divergence(torch.autograd.Function):
    """Computes the gradient with respect to the rows on the way forward, as training/loss.py does."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, teacher_rows: torch.Tensor, logits: Logits, num_rows: int
    ) -> torch.Tensor:
        gradient = torch.empty_like(rows)
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        for start in range(0, len(rows), num_rows):
            part = slice(start, start + num_rows)
            wanted = logits(teacher_rows[part]).float().log_softmax(-1)  # (chunk, V)
            with torch.enable_grad():
                leaf = rows[part].detach().requires_grad_()
                found = logits(leaf).float().log_softmax(-1)
                loss = F.kl_div(found, wanted, reduction="sum", log_target=True)
                (gradient[part],) = torch.autograd.grad(loss, leaf)
            total += loss.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0].to(gradient.dtype), None, None, None


def divergence(
    rows: torch.Tensor, teacher_rows: torch.Tensor, logits: Logits, vocab_size: int
) -> torch.Tensor:
    """Σ over rows of KL(softmax(logits(teacher_row)) ‖ softmax(logits(row))): rows and teacher_rows (n, D),
    logits (n, D) -> (n, V), V of vocab_size. Gradients reach the rows alone.
    """
    num_rows = max(1, chunk_rows(vocab_size) // _TIMES_AS_LARGE)
    return _Divergence.apply(rows, teacher_rows, logits, num_rows)  # type: ignore[no-any-return, no-untyped-call]
