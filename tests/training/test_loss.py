from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from medusa_chat.training import loss


@pytest.mark.parametrize("num_rows", [1, 4, 10])  # within one chunk, just one, and across two boundaries
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_are_those_of_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, num_rows: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(loss, "_CHUNK_LOGITS", 4 * 17)
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(17, 8, generator=random, dtype=dtype)
    targets = torch.randint(17, (num_rows,), generator=random)
    shares = torch.rand(num_rows, generator=random, dtype=dtype)
    rows = torch.randn(num_rows, 8, generator=random, dtype=dtype).requires_grad_()
    expected_rows = rows.detach().clone().requires_grad_()

    value = loss.frozen_head_cross_entropy(rows, weight, targets, shares)
    (0.3 * value).backward()
    expected = (F.cross_entropy(expected_rows @ weight.T, targets, reduction="none") * shares).sum()
    (0.3 * expected).backward()

    assert value.item() == pytest.approx(expected.item(), rel=1e-6)  # summed up in float32
    torch.testing.assert_close(rows.grad, expected_rows.grad)
    assert rows.grad is not None
    assert rows.grad.abs().sum() > 0.01


def test_the_lm_head_takes_no_gradient() -> None:
    weight = torch.randn(5, 3, requires_grad=True)
    rows = torch.randn(2, 3, requires_grad=True)
    loss.frozen_head_cross_entropy(rows, weight, torch.tensor([1, 4]), torch.ones(2)).backward()
    assert rows.grad is not None
    assert weight.grad is None


def test_a_hopeless_guess_costs_much_but_not_infinitely() -> None:
    rows = torch.tensor([[200.0]], requires_grad=True)
    weight, target = torch.tensor([[1.0], [-1.0]]), torch.tensor([1])
    value = loss.frozen_head_cross_entropy(rows, weight, target, torch.ones(1))
    assert 60 < value.item() < 100


def test_no_rows_cost_nothing() -> None:
    rows = torch.empty(0, 3, requires_grad=True)
    none = torch.empty(0, dtype=torch.long)
    value = loss.frozen_head_cross_entropy(rows, torch.randn(5, 3), none, none.float())
    value.backward()
    assert value.item() == 0
