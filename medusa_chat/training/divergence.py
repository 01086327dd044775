"""KL divergence through a frozen LM head, in chunks, so that the (rows, V) logits never exist at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

_CHUNK_ROWS = 2048
Logits = Callable[[torch.Tensor], torch.Tensor]


class _Divergence(torch.autograd.Function):
    """Computes the gradient with respect to the rows on the way forward, as training/loss.py does."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, teacher_rows: torch.Tensor, logits: Logits) -> torch.Tensor:
        gradient = torch.empty_like(rows)
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        for start in range(0, len(rows), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
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
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0].to(gradient.dtype), None, None


def divergence(rows: torch.Tensor, teacher_rows: torch.Tensor, logits: Logits) -> torch.Tensor:
    """Σ over rows of KL(softmax(logits(teacher_row)) ‖ softmax(logits(row))): rows and teacher_rows (n, D),
    logits (n, D) -> (n, V). Gradients reach the rows alone.
    """
    return _Divergence.apply(rows, teacher_rows, logits)  # type: ignore[no-any-return, no-untyped-call]
