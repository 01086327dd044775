"""Samplers by literal tables."""

from __future__ import annotations

import pytest
import torch

from medusa_chat.decoding.sampling import choose, probabilities
from medusa_chat.records import SamplingOptions

LOGITS = torch.tensor([0.5, 0.1, 0.3, 0.1]).log()


def options(**values: float) -> SamplingOptions:
    return SamplingOptions(**{"temperature": 1.0, "top_p": 1.0, **values})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [0.5, 0.1, 0.3, 0.1]),
        ({"temperature": 0.5}, [25 / 36, 1 / 36, 9 / 36, 1 / 36]),
        ({"top_k": 1}, [1, 0, 0, 0]),
        ({"top_k": 2}, [5 / 8, 0, 3 / 8, 0]),
        ({"top_k": 100}, [0.5, 0.1, 0.3, 0.1]),
        ({"top_p": 0.5}, [1, 0, 0, 0]),
        ({"top_p": 0.51}, [5 / 8, 0, 3 / 8, 0]),
        ({"top_p": 0.79}, [5 / 8, 0, 3 / 8, 0]),
        ({"min_p": 0.5}, [5 / 8, 0, 3 / 8, 0]),
        ({"min_p": 0.1}, [0.5, 0.1, 0.3, 0.1]),
        ({"top_k": 2, "top_p": 0.6}, [1, 0, 0, 0]),
        ({"top_p": 0.79, "min_p": 0.7}, [1, 0, 0, 0]),
    ],
)
def test_probabilities(values: dict[str, float], expected: list[float]) -> None:
    assert probabilities(LOGITS, options(**values)).tolist() == pytest.approx(expected, abs=1e-6)


def test_a_wide_nucleus_is_found_beyond_the_first_look() -> None:
    flat = torch.zeros(5000)
    kept = (probabilities(flat, options(top_p=0.5)) > 0).sum()
    assert abs(int(kept) - 2500) <= 1


def test_greedy_takes_the_argmax_and_no_draw() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert choose(LOGITS, options(temperature=0.0), generator) == 0
    assert torch.equal(before, generator.get_state())


def test_draws_follow_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[choose(LOGITS, options(), generator)] += 1
    assert (counts / 4000).tolist() == pytest.approx([0.5, 0.1, 0.3, 0.1], abs=0.03)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1},
        {"temperature": 9.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 1.0},
        {"max_tokens": 0},
        {"tree_size": 65},
        {"seed": -1},
    ],
)
def test_options_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        SamplingOptions(**values)
