"""Drafts against literal values, and the dynamic choice against brute force over every path."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from medusa_chat.decoding.acceptance import accept_on_device
from medusa_chat.decoding.draft import (
    Candidates,
    Draft,
    draft_best,
    draft_static,
    make_pool,
    rank_guesses,
    weigh,
)
from medusa_chat.decoding.lookup import MAX_CHAIN, Chain, look_up
from medusa_chat.decoding.sampling import choose_rows
from medusa_chat.records import SamplingOptions

# root ─ (0) ─ (0,0)
#      │     └ (0,1)
#      └ (2)
SMALL = [(0,), (2,), (0, 0), (0, 1)]
ROOT = torch.tensor(7)


def draft_dynamic(
    root: torch.Tensor,
    ids: torch.Tensor,
    log_probs: torch.Tensor,
    candidates: Candidates,
    num_nodes: int,
    chain: Chain | None = None,
) -> Draft:
    """The num_nodes candidates of highest joint probability, as a step takes them from its pool."""
    pool = make_pool(candidates, weigh(candidates, root, ids, log_probs), chain)
    return draft_best(pool, candidates, num_nodes)


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


def brute_force_with_chain(
    ids: torch.Tensor, log_probs: torch.Tensor, paths: list[tuple[int, ...]], chain: Chain, num_nodes: int
) -> tuple[set[tuple[int, ...]], float]:
    """The likeliest texts, each as likely as its likelier source says; and the tokens to expect."""
    weights: dict[tuple[int, ...], float] = {}
    for path in paths:
        text = tuple(int(ids[depth, rank]) for depth, rank in enumerate(path))
        weights[text] = sum(float(log_probs[depth, rank]) for depth, rank in enumerate(path))
    for depth in range(1, len(chain.ids) + 1):
        text = tuple(chain.ids[:depth].tolist())
        weights[text] = max(weights.get(text, -float("inf")), float(chain.log_probs[depth - 1]))
    best = sorted(weights, key=lambda text: weights[text], reverse=True)[: num_nodes - 1]
    return set(best), 1.0 + sum(float(torch.tensor(weights[text]).exp()) for text in best)


@pytest.mark.parametrize("num_nodes", [1, 2, 6, 20])
def test_a_chain_joins_where_it_is_likelier_and_no_text_is_drafted_twice(num_nodes: int) -> None:
    paths = [path for depth in (1, 2, 3) for path in product(range(3), repeat=depth) if sum(path) < 4]
    candidates = Candidates(paths, chain_length=5)
    shared = set()
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        ids, log_probs = rank_guesses(torch.randn(3, 6, generator=generator) * 2, 3)
        # So few tokens that the chain often begins as one of the heads' paths does.
        falling = torch.rand(5, generator=generator).cumprod(0).log()
        chain = Chain(torch.randint(6, (5,), generator=generator), falling)
        pool = make_pool(candidates, weigh(candidates, ROOT, ids, log_probs), chain)
        draft = draft_best(pool, candidates, num_nodes)
        expected, tokens = brute_force_with_chain(ids, log_probs, paths, chain, num_nodes)

        texts = [tuple(draft.ids[line].tolist()) for line in lines(draft.parents.tolist())]
        assert len(set(texts)) == num_nodes
        assert set(texts) == {(7,), *((7, *text) for text in expected)}
        assert float(pool.expected[num_nodes - 1]) == pytest.approx(tokens, rel=1e-4)
        for node, line in enumerate(lines(draft.parents.tolist())):
            assert draft.depths[node] == len(line) - 1
            assert draft.paths[node].tolist() == line + [node] * (6 - len(line))
            assert draft.visible[node].nonzero().flatten().tolist() == line
        shared.add(next((d for d in range(3) if chain.ids[d] not in ids[d]), 3))
    assert shared == {0, 1, 2, 3}


def test_a_chain_alone_needs_no_heads() -> None:
    chain = Chain(torch.tensor([4, 5, 6]), torch.tensor([-0.1, -0.2, -0.3]))
    none = torch.empty(0, 0, dtype=torch.long)
    draft = draft_dynamic(ROOT, none, none.float(), Candidates([], chain_length=3), 3, chain)
    assert draft.ids.tolist() == [7, 4, 5]
    assert draft.parents.tolist() == [-1, 0, 1]
    assert draft.paths.tolist() == [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2]]


def test_a_chain_of_nothing_leaves_the_heads_their_nodes() -> None:
    paths = [(0,), (1,), (0, 0), (0, 1)]
    ids, log_probs = rank_guesses(torch.tensor([[3.0, 2.0, 0.0], [1.0, 5.0, 4.0]]), 2)
    nothing = Chain(ids[:, 0], torch.full((2,), -torch.inf))
    with_chain = draft_dynamic(ROOT, ids, log_probs, Candidates(paths, chain_length=2), 5, nothing)
    without = draft_dynamic(ROOT, ids, log_probs, Candidates(paths), 5)
    assert torch.equal(with_chain.ids, without.ids)
    assert torch.equal(with_chain.visible, without.visible)
    # Asked for more than there is, it fills up with nodes that do no harm.
    filled = draft_dynamic(ROOT, ids, log_probs, Candidates(paths, chain_length=2), 7, nothing)
    assert len(lines(filled.parents.tolist())) == 7


def test_nothing_waits_for_the_device() -> None:
    """Fake tensors have shapes and no values: whatever needs one, as .item() or nonzero() do, raises."""
    candidates = Candidates([(0,), (1,), (0, 0), (0, 1)], chain_length=MAX_CHAIN)
    look_up(torch.zeros(100, dtype=torch.long), torch.tensor(5))  # makes the tables that it keeps
    with FakeTensorMode(allow_non_fake_inputs=True):
        ids, log_probs = rank_guesses(torch.empty(2, 50), 2)
        chain = look_up(torch.empty(100, dtype=torch.long), torch.empty((), dtype=torch.long))
        draft = draft_dynamic(torch.empty((), dtype=torch.long), ids, log_probs, candidates, 8, chain)
        options = SamplingOptions(temperature=1.0, top_p=0.9, top_k=5, min_p=0.1)
        chosen = choose_rows(torch.empty(8, 50), options, torch.empty(8))
        emitted = accept_on_device(torch.empty(8, dtype=torch.long), draft)[3]
    assert emitted.shape == (MAX_CHAIN + 1,)
    assert chosen.shape == (8,)
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.empty(3).max().item()
