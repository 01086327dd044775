"""KL in chunks against torch's own, value and gradient."""

from __future__ import annotations

import pytest
import torch

from medusa_chat.training import loss
from medusa_chat.training.divergence import divergence
from tests.tiny import tiny_llama


@pytest.mark.parametrize("chunk_rows", [7, 1000])
def test_it_is_kl_from_the_teacher_and_its_gradient(monkeypatch: pytest.MonkeyPatch, chunk_rows: int) -> None:
    monkeypatch.setattr(loss, "_CHUNK_LOGITS", 4 * chunk_rows * 64)
    base = tiny_llama()
    torch.manual_seed(0)
    rows, teacher = torch.randn(20, 32, requires_grad=True), torch.randn(20, 32)
    total = divergence(rows, teacher, base.logits, 64)
    (3 * total).backward()
    probs, found = base.logits(teacher).softmax(-1), base.logits(rows).log_softmax(-1)
    expected = (probs * (probs.log() - found)).sum()
    (gradient,) = torch.autograd.grad(3 * expected, rows)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(rows.grad, gradient)


def test_a_model_that_agrees_has_nothing_to_learn() -> None:
    base = tiny_llama()
    rows = torch.randn(5, 32, requires_grad=True)
    total = divergence(rows, rows.detach().clone(), base.logits, 64)
    total.backward()
    assert total.item() == pytest.approx(0.0, abs=1e-5)
    assert rows.grad is not None
    assert rows.grad.abs().max() < 1e-5
