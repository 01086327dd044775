"""Drafts grown in one call of compiled code are those that torch grows level by level."""

from __future__ import annotations

import pytest
import torch

from medusa_chat.decoding.draft import draft_best, make_pool, rank_guesses
from medusa_chat.decoding.growth import Growth, grow
from medusa_chat.decoding.lean_drafts import grow_at_once
from medusa_chat.model.base import BaseModel
from medusa_chat.model.lean import lean
from medusa_chat.model.lean_heads import LeanPathHeads, lean_heads
from tests.tiny import random_path_heads, tiny_llama

VOCABULARY = torch.arange(1, 64, 2)


def models(dtype: torch.dtype, vocabulary: torch.Tensor | None, seed: int) -> tuple[BaseModel, LeanPathHeads]:
    torch.manual_seed(seed)
    base = lean(BaseModel(tiny_llama().causal_lm.to(dtype)))
    heads = lean_heads(random_path_heads(base, 3, vocabulary).to(dtype), base)
    assert isinstance(heads, LeanPathHeads)
    return base, heads


# In 16 bits torch rounds states between the levels, which compiled code doesn't.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.1)]
)
@pytest.mark.parametrize("vocabulary", [VOCABULARY, None], ids=["some tokens", "all tokens"])
@torch.inference_mode()
def test_nodes_are_those_grown_level_by_level(
    dtype: torch.dtype, tolerance: float, vocabulary: torch.Tensor | None
) -> None:
    frame, root = Growth(3, chain_length=5), torch.tensor(7)
    for seed in range(4):
        base, heads = models(dtype, vocabulary, seed)
        hidden = torch.randn(1, base.hidden_size).to(dtype)
        at_once = grow_at_once(frame, base, heads, hidden, root, None)
        by_level = grow(frame, base, heads, hidden, root, rank_guesses)
        grown = by_level.joint > -torch.inf
        assert torch.equal(at_once.joint > -torch.inf, grown)
        best, same_best = (nodes.joint[grown].sort(descending=True).values for nodes in (at_once, by_level))
        torch.testing.assert_close(best, same_best, rtol=tolerance, atol=tolerance)
        if dtype == torch.float32:
            assert torch.equal(at_once.ids[grown], by_level.ids[grown])
            assert torch.equal(at_once.parents, by_level.parents)
            assert torch.equal(at_once.ancestors[grown], by_level.ancestors[grown])


@pytest.mark.parametrize("num_wanted", [2, 5, 20])
@torch.inference_mode()
def test_growing_that_ends_early_leaves_the_draft_as_it_is(num_wanted: int) -> None:
    frame, root, ended = Growth(3), torch.tensor(7), 0
    for seed in range(8):
        base, heads = models(torch.float32, VOCABULARY, seed)
        hidden = torch.randn(1, base.hidden_size)
        drafts = []
        for grown in (
            grow_at_once(frame, base, heads, hidden, root, None),
            grow_at_once(frame, base, heads, hidden, root, num_wanted),
            grow(frame, base, heads, hidden, root, rank_guesses, num_wanted),
        ):
            drafts.append(draft_best(make_pool(frame, grown, None), frame, num_wanted))
            ended += bool(grown.joint[-1].isinf())
        for draft in drafts[1:]:
            assert torch.equal(draft.ids, drafts[0].ids)
            assert torch.equal(draft.parents, drafts[0].parents)
    assert ended > 0 or num_wanted > 2  # these heads think many tokens likely: few nodes are soon found
