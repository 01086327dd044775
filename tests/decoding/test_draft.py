"""Drafts against literal values, and the dynamic choice against brute force over every path."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from medusa_chat.decoding.draft import Candidates, draft_dynamic, draft_static, rank_guesses

# root ─ (0) ─ (0,0)
#      │     └ (0,1)
#      └ (2)
SMALL = [(0,), (2,), (0, 0), (0, 1)]
ROOT = torch.tensor(7)


def test_a_static_draft_takes_each_heads_guesses_in_order() -> None:
    draft = draft_static(Candidates(SMALL), ROOT, torch.tensor([[1, 2, 3], [0, 3, 2]]))
    assert draft.ids.tolist() == [7, 1, 3, 0, 3]
    assert draft.parents.tolist() == [-1, 0, 0, 1, 1]
    assert draft.depths.tolist() == [0, 1, 1, 2, 2]
    assert draft.visible.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert draft.paths.tolist() == [[0, 0, 0], [0, 1, 1], [0, 2, 2], [0, 1, 3], [0, 1, 4]]


def test_more_guesses_than_the_tree_needs_change_nothing() -> None:
    few = torch.tensor([[1, 2, 3], [0, 3, 2]])
    many = torch.tensor([[1, 2, 3, 8, 9], [0, 3, 2, 8, 9], [4, 5, 6, 8, 9]])
    of_few, of_many = (draft_static(Candidates(SMALL), ROOT, guesses) for guesses in (few, many))
    assert of_few.ids.tolist() == of_many.ids.tolist()


def test_the_root_alone_is_plain_decoding() -> None:
    draft = draft_static(Candidates([]), ROOT, torch.empty(0, 0, dtype=torch.long))
    assert draft.ids.tolist() == [7]
    assert draft.parents.tolist() == [-1]
    assert draft.visible.tolist() == [[True]]


def test_guesses_are_ranked_with_their_log_probabilities() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0], [0.0, 0.0, 9.0, 0.5]])
    ids, log_probs = rank_guesses(logits, 2)
    assert ids.tolist() == [[1, 2], [2, 3]]
    torch.testing.assert_close(log_probs, logits.log_softmax(-1).gather(1, ids))


@pytest.mark.parametrize("num_nodes", [1, 2, 5, 17, 39])
def test_a_dynamic_draft_holds_the_likeliest_paths(num_nodes: int) -> None:
    ranks = range(3)
    everything = [path for depth in (1, 2, 3) for path in product(ranks, repeat=depth)]
    candidates = Candidates(everything)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(3, 50, generator=generator) * 3
        ids, log_probs = rank_guesses(logits, 3)
        draft = draft_dynamic(ROOT, ids, log_probs, candidates, num_nodes)

        def joint(path: tuple[int, ...], log_probs: torch.Tensor = log_probs) -> float:
            return sum(float(log_probs[depth, rank]) for depth, rank in enumerate(path))

        best = sorted(everything, key=joint, reverse=True)[: num_nodes - 1]
        expected = {tuple(int(ids[d, rank]) for d, rank in enumerate(path)) for path in best}
        drafted = {tuple(draft.ids[line].tolist()) for line in lines(draft.parents.tolist())}
        assert drafted == {(7,), *((7, *tokens) for tokens in expected)}


def lines(parents: list[int]) -> list[list[int]]:
    """From the root down to each node; a parent that is no node before it would not end."""
    found: list[list[int]] = []
    for node, parent in enumerate(parents):
        assert parent < node
        found.append([*found[parent], node] if parent >= 0 else [node])
    return found


def test_the_tables_of_a_dynamic_draft_agree_with_its_parents() -> None:
    candidates = Candidates([path for depth in (1, 2, 3, 4) for path in product(range(4), repeat=depth)])
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        ids, log_probs = rank_guesses(torch.randn(4, 30, generator=generator) * 4, 4)
        draft = draft_dynamic(ROOT, ids, log_probs, candidates, 32)
        for node, line in enumerate(lines(draft.parents.tolist())):
            assert draft.depths[node] == len(line) - 1
            assert draft.paths[node].tolist() == line + [node] * (5 - len(line))
            assert draft.visible[node].nonzero().flatten().tolist() == line
        assert draft.depths.tolist() == sorted(draft.depths.tolist())


def test_certain_guesses_keep_their_parents() -> None:
    """Log-probabilities of 0, or equal ones, leave ties between a node and its children."""
    candidates = Candidates([path for depth in (1, 2, 3) for path in product(range(2), repeat=depth)])
    for log_probs in (torch.zeros(3, 2), torch.full((3, 2), -1e-9), torch.full((3, 2), -torch.inf)):
        for num_nodes in range(1, 16):
            draft = draft_dynamic(ROOT, torch.arange(6).view(3, 2), log_probs, candidates, num_nodes)
            assert len(lines(draft.parents.tolist())) == num_nodes
            assert (draft.parents[1:] >= 0).all()
