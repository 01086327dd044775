"""Choosing tokens on the device against the plain way, every filter alone and all together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from medusa_chat.decoding import sampling
from medusa_chat.kernels.choice import choose_rows, rank_guesses, rank_guesses_reference
from medusa_chat.records import SamplingOptions

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("vocab_size", [7, 300, 3000, 4098])
def test_guesses_are_ranked_the_first_of_equals_first(vocab_size: int) -> None:
    logits = torch.randn(4, vocab_size, device=DEVICE).round(decimals=1)
    ids, log_probs = rank_guesses(logits, 6)
    expected_ids, expected = rank_guesses_reference(logits, 6)
    assert torch.equal(ids, expected_ids)
    torch.testing.assert_close(log_probs, expected, rtol=1e-4, atol=1e-5)


def placed(uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each row's (M,), as those of positions: of M rows behind 7, the last first."""
    length = torch.tensor([7], dtype=torch.int32, device=DEVICE)
    depths = torch.arange(len(uniforms) - 1, -1, -1, device=DEVICE)
    return torch.cat([torch.rand(7, device=DEVICE), uniforms.flip(0)]), length, depths


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 0.7, "top_p": 0.8},
        {"temperature": 1.5, "top_k": 7},
        {"temperature": 1.2, "min_p": 0.1},
        {"temperature": 2.0, "top_p": 0.9, "top_k": 40, "min_p": 0.02},
    ],
)
def test_tokens_equal_the_plain_way(settings: dict[str, Any]) -> None:
    options = SamplingOptions(**{"top_p": 1.0, **settings})
    logits = torch.randn(40, 300, device=DEVICE) * 2
    uniforms = torch.rand(40, device=DEVICE)
    packed = torch.tensor([options.temperature, options.top_k, options.top_p, options.min_p], device=DEVICE)
    ours = choose_rows(logits, packed, *placed(uniforms))
    expected = sampling.choose_rows(logits, options, uniforms)
    # Where a uniform falls within rounding of a step of the sum, neither token is wrong.
    assert (ours == expected).sum() >= 39


def test_the_first_of_equals_is_the_greedy_choice() -> None:
    logits = torch.zeros(2, 100, device=DEVICE)
    logits[1, [30, 60]] = 5.0
    greedy = choose_rows(
        logits, torch.tensor([0.0, 0.0, 1.0, 0.0], device=DEVICE), *placed(torch.rand(2, device=DEVICE))
    )
    assert greedy.tolist() == [0, 30]
