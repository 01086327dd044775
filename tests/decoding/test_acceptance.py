"""Acceptance rules against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from medusa_chat.decoding.acceptance import accept_exact, accept_typical, typical_threshold
from medusa_chat.decoding.tree import Tree
from medusa_chat.records import SamplingOptions

GREEDY = SamplingOptions(temperature=0.0)
TREE = Tree([(0,), (1,), (0, 0), (0, 1)])
IDS = torch.tensor([9, 3, 5, 6, 7])  # root 9; its drafts 3 and 5; below 3: 6 and 7


def logits_for(*choices: int) -> torch.Tensor:
    """(N, 10) logits whose argmax at node i is choices[i]."""
    logits = torch.zeros(len(choices), 10)
    logits[range(len(choices)), list(choices)] = 4.0
    return logits


@pytest.mark.parametrize(
    ("choices", "path", "next_root"),
    [
        ((3, 7, 0, 0, 2), [0, 1, 4], 2),  # 9 → 3 → 7, then 2
        ((3, 6, 0, 8, 0), [0, 1, 3], 8),
        ((3, 1, 0, 0, 0), [0, 1], 1),  # 3 is right, neither 6 nor 7 is
        ((5, 0, 4, 0, 0), [0, 2], 4),
        ((1, 0, 0, 0, 0), [0], 1),  # no draft is right: a plain step
        ((6, 0, 0, 0, 0), [0], 6),  # 6 stands deeper in the tree, not here
    ],
)
def test_greedy_walks_down_the_argmaxes(choices: tuple[int, ...], path: list[int], next_root: int) -> None:
    accepted = accept_exact(logits_for(*choices), TREE, IDS, GREEDY, None)
    assert accepted.path == path
    assert accepted.next_root == next_root
    # At temperature 0 the typical rule is greedy too.
    assert accept_typical(logits_for(*choices), TREE, IDS, GREEDY, None) == accepted


def test_exact_draws_once_for_each_token_it_emits() -> None:
    """So that the same seed gives the same tokens with and without a tree."""
    options = SamplingOptions(temperature=1.0, top_p=1.0)
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(1))
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        accepted = accept_exact(logits, TREE, IDS, options, generator)
        reference = torch.Generator().manual_seed(seed)
        emitted = [
            int(torch.multinomial(logits[node].softmax(-1), 1, generator=reference)) for node in accepted.path
        ]
        assert [*IDS[accepted.path[1:]].tolist(), accepted.next_root] == emitted


def test_typical_threshold_by_hand() -> None:
    # Entropy of a fair coin is ln 2, so α · exp(-H) = 0.3 / 2; ε is smaller.
    assert typical_threshold(torch.tensor([0.5, 0.5])) == pytest.approx(0.09)
    # Ten equal tokens: 0.3 / 10 is below ε.
    assert typical_threshold(torch.full((10,), 0.1)) == pytest.approx(0.03)
    # Certain: H = 0, and 0.3 is above ε.
    assert typical_threshold(torch.tensor([1.0, 0.0])) == pytest.approx(0.09)


def test_typical_keeps_the_longest_plausible_path() -> None:
    options = SamplingOptions(temperature=1.0, top_p=1.0, acceptance="typical")
    probs = torch.full((5, 10), 1e-4)
    probs[0, 3], probs[0, 5] = 0.10, 0.85  # both drafts of the root pass ε = 0.09
    probs[1, 6], probs[1, 7] = 0.05, 0.92  # below 3, 6 fails and 7 passes
    probs[4, 2] = 0.999
    logits = (probs / probs.sum(-1, keepdim=True)).log()
    accepted = accept_typical(logits, TREE, IDS, options, torch.Generator().manual_seed(0))
    assert accepted.path == [0, 1, 4]  # longer than the likelier 9 → 5
    assert accepted.next_root == 2


def test_typical_prefers_the_likelier_of_equally_long_paths() -> None:
    options = SamplingOptions(temperature=1.0, top_p=1.0, acceptance="typical")
    probs = torch.full((5, 10), 1e-4)
    probs[0, 3], probs[0, 5] = 0.30, 0.69
    probs[1, 1] = probs[2, 4] = 0.999
    accepted = accept_typical(probs.log(), TREE, IDS, options, torch.Generator().manual_seed(0))
    assert accepted.path == [0, 2]
    assert accepted.next_root == 4


def test_temperature_enters_the_typical_rule() -> None:
    # p = (0.08, 0.92) fails ε at temperature 1; at 2 it is (0.23, 0.77) and passes.
    tree, ids = Tree([(0,)]), torch.tensor([1, 0])
    logits = torch.tensor([[math.log(0.08), math.log(0.92)], [0.0, 0.0]])
    for temperature, path in ((1.0, [0]), (2.0, [0, 1])):
        options = SamplingOptions(temperature=temperature, top_p=1.0, acceptance="typical")
        assert accept_typical(logits, tree, ids, options, torch.Generator().manual_seed(0)).path == path
