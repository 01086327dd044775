"""Drafts grown level by level, against a slow search that asks the heads about one path at a time."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from medusa_chat.decoding.draft import Draft, Pool, draft_best, make_pool, rank_guesses
from medusa_chat.decoding.generate import Context, generate
from medusa_chat.decoding.growth import GrownTree, Growth, grow
from medusa_chat.decoding.lookup import MAX_CHAIN, Chain
from medusa_chat.decoding.planning import Plan, fixed_plan, plain_plan
from medusa_chat.decoding.proposing import dynamic_candidates, propose_static, static_candidates
from medusa_chat.model.base import BaseModel
from medusa_chat.model.path_heads import PathHeads
from medusa_chat.records import SamplingOptions
from tests.tiny import random_path_heads, tiny_llama

ROOT = torch.tensor(7)
VOCABULARY = torch.arange(1, 64, 2)
Text = tuple[int, ...]


def models(seed: int = 0) -> tuple[BaseModel, PathHeads]:
    base = tiny_llama()
    torch.manual_seed(seed)
    return base, random_path_heads(base, 3, VOCABULARY)


def log_probs_after(base: BaseModel, heads: PathHeads, hidden: torch.Tensor, text: Text) -> dict[int, float]:
    """What the heads think follows the root and these tokens: each token's log-probability."""
    path = base.embed(torch.tensor([int(ROOT), *text]))[:, None]  # (n, 1, D)
    logits = heads.shared_logits(heads.rows(hidden, path)[-1], base)[0]
    return dict(zip(VOCABULARY.tolist(), logits.log_softmax(-1).tolist(), strict=True))


def searched(base: BaseModel, heads: PathHeads, hidden: torch.Tensor) -> dict[Text, float]:
    """Every text that growing meets on a CPU, and its log-probability."""
    found: dict[Text, float] = {}
    beam: dict[Text, float] = {(): 0.0}
    for depth in range(heads.num_heads):
        level: dict[Text, float] = {}
        for text, joint in beam.items():
            following = log_probs_after(base, heads, hidden, text)
            for token in sorted(following, key=lambda t: -following[t])[: 8 if depth else 16]:
                level[(*text, token)] = joint + following[token]
        found |= level
        beam = {text: level[text] for text in sorted(level, key=lambda text: -level[text])[:4]}
    return found


def texts(draft: Draft) -> list[Text]:
    """Of each node, the tokens from behind the root to it; checks all that a draft says of its nodes."""
    lines: list[list[int]] = []
    for node, parent in enumerate(draft.parents.tolist()):
        assert parent < node
        line = [*lines[parent], node] if parent >= 0 else [node]
        assert draft.depths[node] == len(line) - 1
        assert draft.paths[node].tolist() == line + [node] * (draft.paths.shape[1] - len(line))
        assert draft.visible[node].nonzero().flatten().tolist() == line
        lines.append(line)
    assert draft.ids[0] == ROOT
    return [tuple(draft.ids[line].tolist()[1:]) for line in lines]


def pool_of(base: BaseModel, heads: PathHeads, hidden: torch.Tensor, frame: Growth, *chain: Chain) -> Pool:
    weighed = grow(frame, base, heads, hidden, ROOT, rank_guesses)
    return make_pool(frame, weighed, chain[0] if chain else None)


@pytest.mark.parametrize("num_nodes", [1, 2, 9, 40])
def test_the_likeliest_of_what_is_grown(num_nodes: int) -> None:
    frame = Growth(3)
    for seed in range(5):
        base, heads = models(seed)
        hidden = torch.randn(1, base.hidden_size)
        pool = pool_of(base, heads, hidden, frame)
        found = searched(base, heads, hidden)
        best = sorted(found, key=lambda text: -found[text])[: num_nodes - 1]
        drafted = texts(draft_best(pool, frame, num_nodes))
        assert len(drafted) == num_nodes
        assert set(drafted) == {(), *best}
        hoped = 1.0 + sum(float(torch.tensor(found[text]).exp()) for text in best)
        assert float(pool.expected[num_nodes - 1]) == pytest.approx(hoped, rel=1e-4)


@pytest.mark.parametrize("num_nodes", [2, 9, 40])
def test_a_chain_joins_what_is_grown_and_no_text_is_drafted_twice(num_nodes: int) -> None:
    frame = Growth(3, chain_length=5)
    shared = set()
    for seed in range(12):
        base, heads = models(seed)
        hidden = torch.randn(1, base.hidden_size)
        found = searched(base, heads, hidden)
        # Begins as a grown text of 0, 1, 2 or 3 tokens does.
        begun = next(text for text in found if len(text) == seed % 4) if seed % 4 else ()
        ids = [*begun, *[0] * (5 - len(begun))]  # token 0 is none that the heads guess
        falling = torch.rand(5, generator=torch.Generator().manual_seed(seed)).cumprod(0).log()
        pool = pool_of(base, heads, hidden, frame, Chain(torch.tensor(ids), falling))
        for depth in range(1, 6):
            text = tuple(ids[:depth])
            found[text] = max(found.get(text, -float("inf")), float(falling[depth - 1]))
        best = sorted(found, key=lambda text: -found[text])[: num_nodes - 1]
        drafted = texts(draft_best(pool, frame, num_nodes))
        assert len(set(drafted)) == num_nodes
        assert set(drafted) == {(), *best}
        shared.add(len(begun))
    assert shared == {0, 1, 2, 3}


def test_a_static_tree_takes_the_guesses_behind_each_parent() -> None:
    base, heads = models()
    hidden = torch.randn(1, base.hidden_size)
    paths = [(0,), (2,), (0, 0), (0, 1), (2, 3), (0, 1, 0), (2, 3, 1)]
    tree = static_candidates(heads, paths)
    assert isinstance(tree, GrownTree)
    draft = propose_static(tree, base, heads, hidden, ROOT, rank_guesses)
    expected: set[Text] = {()}
    for path in paths:
        text: Text = ()
        for rank in path:
            following = log_probs_after(base, heads, hidden, text)
            text = (*text, sorted(following, key=lambda t: -following[t])[rank])
        expected.add(text)
    assert set(texts(draft)) == expected
    assert len(draft) == 8


def test_one_batch_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    base, heads = models()
    batches = []
    advance = heads.advance

    def counted(state: torch.Tensor, embedding: torch.Tensor, depth: int) -> torch.Tensor:
        batches.append(len(state))
        return advance(state, embedding, depth)

    monkeypatch.setattr(heads, "advance", counted)
    frame = Growth(3)
    pool_of(base, heads, torch.randn(1, base.hidden_size), frame)
    assert batches == [1, frame.beam, frame.beam]
    batches.clear()
    tree = static_candidates(heads, [(0,), (1,), (0, 0), (1, 0), (1, 0, 0)])
    propose_static(tree, base, heads, torch.randn(1, base.hidden_size), ROOT, rank_guesses)
    assert batches == [1, 2, 1]


def test_drafts_change_no_token() -> None:
    base, heads = models()
    plans: list[Plan] = [
        plain_plan(),
        fixed_plan(dynamic_candidates(heads), 4),
        fixed_plan(dynamic_candidates(heads, chain=False), 16),
        fixed_plan(dynamic_candidates(heads), 64),
        Plan(static_candidates(heads, [(0,), (1,), (0, 0), (1, 0), (1, 0, 0)])),
    ]
    for temperature in (0.0, 1.0):
        options = SamplingOptions(temperature=temperature, max_tokens=60)
        replies = []
        for plan in plans:
            steps = generate(
                base,
                heads,
                Context(base.new_cache()),
                [1, 4, 2],
                lambda options=options: options,
                lambda _, plan=plan: plan,
                generator=torch.Generator().manual_seed(3),
            )
            replies.append([token for step in steps for token in step.ids])
        assert all(reply == replies[0] for reply in replies)


def test_nothing_waits_for_the_device() -> None:
    """Fake tensors have shapes and no values: whatever needs one, as .item() or nonzero() do, raises."""
    base, heads = models()
    frame = Growth(3, chain_length=MAX_CHAIN)
    tree = static_candidates(heads, [(0,), (0, 0), (0, 1)])
    heads.shared_logits(torch.zeros(1, base.hidden_size), base)  # makes the LM head that it keeps
    with FakeTensorMode(allow_non_fake_inputs=True):
        hidden, root = torch.empty(1, base.hidden_size), torch.empty((), dtype=torch.long)
        chain = Chain(torch.empty(MAX_CHAIN, dtype=torch.long), torch.empty(MAX_CHAIN))
        pool = make_pool(frame, grow(frame, base, heads, hidden, root, rank_guesses), chain)
        assert len(draft_best(pool, frame, 16)) == 16
        assert len(propose_static(tree, base, heads, hidden, root, rank_guesses)) == 4
