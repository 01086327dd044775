"""Whose guess a token was: heads', the conversation's, the base model's."""

from __future__ import annotations

import torch

from medusa_chat.decoding.draft import Candidates, draft_best, draft_static, make_pool, weigh
from medusa_chat.decoding.generate import Context, Step, generate
from medusa_chat.decoding.lookup import MAX_CHAIN, Chain
from medusa_chat.decoding.origins import origins_by_depth, origins_of
from medusa_chat.decoding.planning import Plan, fixed_plan, plain_plan
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.records import BASE_ORIGIN, LOOKUP_ORIGIN, SamplingOptions
from tests.tiny import TableModel, table_heads

ROOT = torch.tensor(7)
PATHS = [(0,), (1,), (0, 0), (0, 1), (1, 0)]
# Head 1 guesses 1 and 2, head 2 guesses 3 and 4.
GUESSES = torch.tensor([[1, 2], [3, 4]])
LOG_PROBS = torch.tensor([[0.6, 0.2], [0.5, 0.1]]).log()


def origins_by_text(chain: Chain, num_nodes: int) -> dict[tuple[int, ...], int]:
    """Text of each node of the draft -> origin of its last token; and the deepest draft by a head."""
    candidates = Candidates(PATHS, chain_length=3)
    pool = make_pool(candidates, weigh(candidates, ROOT, GUESSES, LOG_PROBS), chain)
    draft = draft_best(pool, candidates, num_nodes)
    found = {}
    for node in range(1, num_nodes):
        path = draft.paths[node, : int(draft.depths[node]) + 1].tolist()
        origins, _ = origins_of(draft, path)
        assert origins[-1] == BASE_ORIGIN
        found[tuple(draft.ids[path[1:]].tolist())] = origins[-2]
    return found


def chain_of(tokens: list[int], probability: float) -> Chain:
    return Chain(torch.tensor(tokens), torch.full((len(tokens),), probability).log())


def test_what_no_head_guessed_was_looked_up() -> None:
    assert origins_by_text(chain_of([5, 6, 8], 0.4), 6) == {
        (1,): 1,
        (1, 3): 2,
        (5,): LOOKUP_ORIGIN,
        (5, 6): LOOKUP_ORIGIN,
        (5, 6, 8): LOOKUP_ORIGIN,
    }


def test_a_guess_that_stands_by_itself_is_the_heads_though_it_was_looked_up_too() -> None:
    assert origins_by_text(chain_of([1, 3, 8], 0.4), 4) == {(1,): 1, (1, 3): 2, (1, 3, 8): LOOKUP_ORIGIN}


def test_a_guess_that_only_the_conversation_brought_in_was_looked_up() -> None:
    # By themselves the heads would have 3 after 1 rather than 2.
    assert origins_by_text(chain_of([2, 4, 8], 0.4), 3) == {(1,): 1, (2,): LOOKUP_ORIGIN}


def test_below_what_was_looked_up_nothing_is_a_heads() -> None:
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        falling = torch.rand(3, generator=generator).cumprod(0).log()
        found = origins_by_text(Chain(torch.randint(1, 5, (3,), generator=generator), falling), 6)
        for text, origin in found.items():
            assert origin in (LOOKUP_ORIGIN, len(text))
            assert found.get(text[:-1]) != LOOKUP_ORIGIN or origin == LOOKUP_ORIGIN


def test_a_static_draft_is_all_by_heads() -> None:
    draft = draft_static(Candidates(PATHS), ROOT, GUESSES)
    assert origins_of(draft, [0]) == ([BASE_ORIGIN], 2)
    assert origins_of(draft, [0, 1, 3]) == ([1, 2, BASE_ORIGIN], 2)
    root_alone = draft_static(Candidates([]), ROOT, torch.empty(0, 0, dtype=torch.long))
    assert origins_of(root_alone, [0]) == ([BASE_ORIGIN], 0)


def test_by_depth_where_nothing_else_is_known() -> None:
    assert origins_by_depth(0, 3) == [BASE_ORIGIN]
    assert origins_by_depth(5, 3) == [1, 2, 3, LOOKUP_ORIGIN, LOOKUP_ORIGIN, BASE_ORIGIN]
    assert origins_by_depth(2, 0) == [LOOKUP_ORIGIN, LOOKUP_ORIGIN, BASE_ORIGIN]


def steps_of(heads: MedusaHeads | None, plan: Plan, max_tokens: int) -> list[Step]:
    """After token i comes i + 1, round and round."""
    base = TableModel(torch.roll(torch.eye(12), 1, dims=1) * 20)
    options = SamplingOptions(temperature=0.0, max_tokens=max_tokens)
    return list(generate(base, heads, Context(base.new_cache()), [1, 2], lambda: options, lambda _: plan))


def test_steps_tell_the_origin_of_each_token() -> None:
    heads = table_heads(torch.roll(torch.eye(12), 1, dims=1) * 20, 3)
    chain = Plan(Candidates([(0,), (0, 0), (0, 0, 0)]))
    drafted = steps_of(heads, chain, 11)
    assert [step.origins for step in drafted] == [[0], [1, 2, 3, 0], [1, 2, 3, 0], [1, 2]]  # cut at 11
    assert [step.head_depth for step in drafted] == [0, 3, 3, 3]
    assert all(step.origins == [0] and step.head_depth == 0 for step in steps_of(None, plain_plan(), 4))
    repeating = steps_of(None, fixed_plan(Candidates([], chain_length=MAX_CHAIN), 4), 40)
    assert [step.origins for step in repeating[-3:-1]] == [[-1, -1, -1, 0]] * 2
    assert all(step.head_depth == 0 for step in repeating)
