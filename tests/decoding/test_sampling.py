"""Samplers by literal tables."""

from __future__ import annotations

import pytest
import torch

from medusa_chat.decoding.sampling import choose, choose_rows, greedy, largest, probabilities
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
    flat = torch.linspace(0, 1e-3, 5000)  # none as likely as another
    kept = (probabilities(flat, options(top_p=0.5)) > 0).sum()
    assert abs(int(kept) - 2500) <= 1


def test_tokens_as_likely_as_the_nucleus_last_are_in_it() -> None:
    """So that the order in which equals happen to be sorted decides nothing."""
    logits = torch.tensor([0.2, 0.4, 0.2, 0.2]).log()
    assert probabilities(logits, options(top_p=0.5)).tolist() == pytest.approx([0.2, 0.4, 0.2, 0.2])


@pytest.mark.parametrize(
    ("uniform", "token"),
    [(0.0, 0), (0.49, 0), (0.51, 1), (0.59, 1), (0.61, 2), (0.89, 2), (0.91, 3), (1 - 2**-24, 3)],
)
def test_a_draw_inverts_the_distribution_function(uniform: float, token: int) -> None:
    assert choose(LOGITS, options(), torch.tensor(uniform)) == token


def test_no_draw_takes_what_was_filtered_out() -> None:
    for uniform in (0.0, 0.624, 0.626, 1 - 2**-24):
        assert choose(LOGITS, options(top_k=2), torch.tensor(uniform)) == (0 if uniform < 0.625 else 2)
    last_is_out = torch.tensor([5.0, 5.0, 0.0])
    assert choose(last_is_out, options(top_p=0.9), torch.tensor(1 - 2**-24)) == 1
    first_is_out = torch.tensor([0.0, 5.0, 5.0])
    assert choose(first_is_out, options(top_p=0.9), torch.tensor(0.0)) == 1


def test_greedy_takes_the_argmax_whatever_the_number() -> None:
    for uniform in (0.0, 0.999):
        assert choose(LOGITS, options(temperature=0.0), torch.tensor(uniform)) == 0


@pytest.mark.parametrize("vocab_size", [100, 128 * 20, 128 * 20 + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_are_found_block_by_block(vocab_size: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits = (torch.randn(3, vocab_size, generator=generator) * 2).round().to(dtype)  # many equals
        assert torch.equal(greedy(logits), logits.float().argmax(-1))
        values, ids = largest(logits, 16)
        assert torch.equal(values, logits.topk(16).values)
        assert torch.equal(logits.gather(-1, ids), values)
        assert all(len(set(row)) == 16 for row in ids.tolist())


@pytest.mark.parametrize("values", [{}, {"top_p": 0.7}, {"top_k": 30}, {"top_p": 0.95, "min_p": 0.05}])
def test_a_row_is_drawn_alike_in_any_company(values: dict[str, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    # Flat and peaked rows: their nuclei are as narrow as one token and wider than the first look.
    logits = torch.randn(12, 500, generator=generator) * torch.linspace(0.1, 6, 12)[:, None]
    uniforms = torch.rand(12, generator=generator)
    together = choose_rows(logits, options(**values), uniforms)
    alone = [choose(row, options(**values), u) for row, u in zip(logits, uniforms, strict=True)]
    assert together.tolist() == alone


def test_draws_follow_the_probabilities() -> None:
    uniforms = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    chosen = choose_rows(LOGITS.expand(4000, 4), options(), uniforms)
    assert (chosen.bincount() / 4000).tolist() == pytest.approx([0.5, 0.1, 0.3, 0.1], abs=0.03)


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
