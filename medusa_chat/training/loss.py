"""Cross-entropy through a frozen LM head, in chunks, so that the (rows, V) logits never exist at once."""

from __future__ import annotations

from typing import Any

import torch

_CHUNK_LOGITS = 2**27
_TINY = 1e-30  # a probability that underflows must not make the loss infinite


class _FrozenHeadCrossEntropy(torch.autograd.Function):
    """Computes the gradient with respect to the rows on the way forward: the LM head itself takes none."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor
    ) -> torch.Tensor:
        gradient = torch.empty_like(rows)
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        num_rows = chunk_rows(len(weight))
        for start in range(0, len(rows), num_rows):
            part = slice(start, start + num_rows)
            target, share = targets[part, None], shares[part, None]
            probs = (rows[part].to(weight.dtype) @ weight.T).softmax(-1)  # (chunk, V)
            total -= (probs.gather(1, target).float().clamp_min_(_TINY).log_() * share).sum()
            gradient[part] = (probs @ weight - weight[target[:, 0]]) * share
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0].to(gradient.dtype), None, None, None


def frozen_head_cross_entropy(
    rows: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor
) -> torch.Tensor:
    """Σ over rows of -share · log softmax(rows @ weight^T)[target]: rows (n, D), weight (V, D), targets and
    shares (n,).
    """
    return _FrozenHeadCrossEntropy.apply(rows, weight, targets, shares)  # type: ignore[no-any-return, no-untyped-call]


def chunk_rows(vocab_size: int) -> int:
    """Rows whose logits exist at once."""
    return max(1, _CHUNK_LOGITS // vocab_size)


def chunk_bytes(dtype: torch.dtype) -> int:
    """What these take: logits and probabilities."""
    return 2 * _CHUNK_LOGITS * dtype.itemsize
