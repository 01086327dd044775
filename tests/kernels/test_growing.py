"""Growing and choosing draft nodes in single launches, against decoding's way of many operations."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from medusa_chat.decoding.draft import Candidates, Draft, Weighed, draft_best, make_pool, weigh
from medusa_chat.decoding.growth import Growth, grow
from medusa_chat.decoding.lookup import Chain
from medusa_chat.decoding.tree import published_paths
from medusa_chat.kernels.choice import rank_guesses_reference
from medusa_chat.kernels.growing import (
    Beam,
    Nodes,
    add_level,
    choose_nodes,
    enter,
    enter_reference,
)
from medusa_chat.model.base import BaseModel
from tests.tiny import random_path_heads, tiny_llama

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_enter() -> None:
    state, embedding = torch.randn(5, 70, device=DEVICE), torch.randn(40, 70, device=DEVICE).half()
    rows, tokens = torch.tensor([4, 0, 0], device=DEVICE), torch.tensor([39, 0, 7], device=DEVICE)
    depth = torch.randn(70, device=DEVICE).half()
    arguments = state, rows, embedding, tokens, depth, 1e-6
    for ours, expected in zip(enter(*arguments), enter_reference(*arguments), strict=True):
        torch.testing.assert_close(ours, expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("with_vocabulary", [False, True])
def test_levels_grow_as_decoding_grows_them(with_vocabulary: bool) -> None:
    base = BaseModel(tiny_llama().causal_lm.to(DEVICE))
    vocabulary = torch.arange(1, 64, 2, device=DEVICE) if with_vocabulary else None
    heads = random_path_heads(base, 3, vocabulary).to(DEVICE)
    frame, root = Growth(3, DEVICE, chain_length=5), torch.tensor(7, device=DEVICE)
    hidden = torch.randn(1, base.hidden_size, device=DEVICE)
    expected = grow(frame, base, heads, hidden, root, rank_guesses_reference)

    nodes = Nodes.empty(len(frame), frame.max_depth + 1, root.device)
    zero = frame.depths[:1]
    beam = Beam(zero, root.view(1), zero)
    state = hidden
    for depth, level in enumerate(frame.levels):
        state = heads.advance(state[beam.rows], base.embed(beam.tokens), depth)
        ranked = rank_guesses_reference(heads.shared_logits(state, base), 8 if depth else 16)
        beam = add_level(nodes, beam, *ranked, vocabulary, depth, level.start, frame.beam)
    grown = expected.joint > -torch.inf
    torch.testing.assert_close(nodes.joint, expected.joint)
    assert torch.equal(nodes.parents, expected.parents)
    assert torch.equal(nodes.ids[grown], expected.ids[grown])
    assert torch.equal(nodes.ancestors[grown], expected.ancestors[grown])


def weighed(seed: int) -> tuple[Candidates, Weighed, Chain]:
    """Guesses among few tokens, so that the chain often begins as a path does, and with ties."""
    generator = torch.Generator().manual_seed(seed)
    candidates = Candidates(published_paths(4), DEVICE, chain_length=6)
    ids = torch.stack([torch.randperm(20, generator=generator)[:16] for _ in range(4)]).to(DEVICE)
    log_probs = -torch.rand(4, 16, generator=generator).cumsum(1).round(decimals=1).to(DEVICE)
    begun = [int(ids[depth, 0]) for depth in range(seed % 5)]
    tokens = torch.tensor([*begun, *[19] * (6 - len(begun))], device=DEVICE)
    falling = torch.rand(6, generator=generator).cumprod(0).log().to(DEVICE)
    root = torch.tensor(7, device=DEVICE)
    return candidates, weigh(candidates, root, ids, log_probs), Chain(tokens, falling)


@pytest.mark.parametrize("num_nodes", [1, 4, 33])
@pytest.mark.parametrize("with_chain", [True, False])
def test_the_likeliest_nodes_are_chosen_as_decoding_chooses(num_nodes: int, with_chain: bool) -> None:
    for seed in range(6):
        frame, nodes, chain = weighed(seed)
        if not with_chain:  # a chain of nothing takes no node
            chain = Chain(chain.ids, torch.full_like(chain.log_probs, -torch.inf))
        pool = make_pool(frame, nodes, chain)
        expected = draft_best(pool, frame, num_nodes)
        sizes = torch.tensor([1, 4, num_nodes], device=DEVICE)
        ours = choose_nodes(
            on_device(nodes), frame.depths,
            (frame.chain, chain.ids, chain.log_probs), frame.num_heads, num_nodes, sizes,
        )  # fmt: skip
        assert same(Draft(ours.ids, ours.parents, ours.depths, ours.paths), expected)
        torch.testing.assert_close(ours.expected[:-1], pool.expected[sizes - 1], rtol=1e-4, atol=1e-5)
        assert float(ours.expected[-1]) == int(expected.depths.max())


def test_without_any_chain() -> None:
    candidates = Candidates(published_paths(3), DEVICE)
    ids = torch.arange(48, device=DEVICE).view(3, 16)
    log_probs = -torch.rand(3, 16, device=DEVICE).cumsum(1)
    nodes = weigh(candidates, torch.tensor(60, device=DEVICE), ids, log_probs)
    expected = draft_best(make_pool(candidates, nodes, None), candidates, 20)
    ours = choose_nodes(
        on_device(nodes), candidates.depths, None, 3, 20,
        torch.tensor([20], device=DEVICE),
    )  # fmt: skip
    assert same(Draft(ours.ids, ours.parents, ours.depths, ours.paths), expected)


def on_device(weighed: Weighed) -> Nodes:
    return Nodes(weighed.joint, weighed.ids, weighed.parents, weighed.ancestors)


def same(ours: Draft, expected: Draft) -> bool:
    return (
        torch.equal(ours.ids, expected.ids)
        and torch.equal(ours.parents, expected.parents)
        and torch.equal(ours.depths, expected.depths)
        and torch.equal(ours.paths, expected.paths)
    )
