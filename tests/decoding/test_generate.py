"""The loop on fake heads that force never, always and sometimes accept; its ends, cancelling, reuse."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from medusa_chat.decoder_memory import SPARE_ROWS
from medusa_chat.decoding.draft import Candidates
from medusa_chat.decoding.generate import Context, Step, generate
from medusa_chat.decoding.planning import Plan
from medusa_chat.model.base import BaseModel
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.records import MAX_TREE_SIZE, SamplingOptions
from tests.tiny import TableModel, random_heads, table_heads, tiny_llama

PLAIN = Plan(Candidates([]))
CHAIN = Plan(Candidates([(0,), (0, 0), (0, 0, 0)]))
WIDE = Plan(Candidates([(0,), (1,), (2,), (0, 0), (1, 0), (0, 0, 0)]))
GREEDY = SamplingOptions(temperature=0.0, max_tokens=30)


def counting_model(size: int = 12) -> TableModel:
    """After token i comes i + 1, round and round."""
    return TableModel(torch.roll(torch.eye(size), 1, dims=1) * 20)


def wrong_heads(base: TableModel) -> MedusaHeads:
    """Heads whose best guess is never right: the token before, not the ones after."""
    guess = torch.roll(base.table, -2, dims=1)
    size = base.hidden_size
    return BlockHeads(torch.zeros(1, 3, size, size), torch.zeros(1, 3, 1, size), torch.stack([guess.T] * 3))


def run(
    base: BaseModel,
    heads: MedusaHeads | None,
    tree: Plan,
    options: SamplingOptions = GREEDY,
    prompt: list[int] | None = None,
    context: Context | None = None,
    eos_ids: tuple[int, ...] = (),
) -> list[Step]:
    context = context or Context(base.new_cache())
    return list(
        generate(base, heads, context, prompt or [1, 2], lambda: options, lambda _: tree, eos_ids=eos_ids)
    )


def ids(steps: list[Step]) -> list[int]:
    return [token for step in steps for token in step.ids]


def test_always_accept() -> None:
    base = counting_model()
    steps = run(base, table_heads(base.table, 3), CHAIN)
    assert ids(steps) == [(3 + i) % 12 for i in range(30)]
    assert [len(step.ids) for step in steps] == [1, *[4] * 7, 1]  # the prefill; whole chains; cut at 30
    assert [step.num_nodes for step in steps[:2]] == [0, 4]
    assert steps[-1].finish_reason == "length"


def test_never_accept() -> None:
    base = counting_model()
    steps = run(base, wrong_heads(base), CHAIN)
    assert ids(steps) == [(3 + i) % 12 for i in range(30)]
    assert all(len(step.ids) == 1 for step in steps)


@pytest.mark.parametrize("tree", [CHAIN, WIDE, Plan(Candidates([(0,), (1,), (2,), (3,)]))])
def test_sometimes_accept_on_a_real_transformer(tree: Plan) -> None:
    base = tiny_llama()
    plain = run(base, None, PLAIN)
    # Untrained heads share the LM head and start as the base itself: now and then right.
    drafted = run(base, BlockHeads.fresh(3, 1, base.hidden_size), tree)
    assert ids(drafted) == ids(plain)
    assert all(len(step.ids) == 1 for step in plain)


@pytest.mark.parametrize(("eos", "expected"), [(3, [3]), (5, [3, 4, 5]), (6, [3, 4, 5, 6])])
def test_nothing_after_eos(eos: int, expected: list[int]) -> None:
    base = counting_model()
    for heads, tree in ((None, PLAIN), (table_heads(base.table, 3), CHAIN)):
        steps = run(base, heads, tree, eos_ids=(eos,))
        assert ids(steps) == expected
        assert [step.finish_reason for step in steps][-1] == "eos"


def test_stops_when_the_context_is_full() -> None:
    base = tiny_llama(context=40)
    widest = Plan(Candidates([(rank,) for rank in range(MAX_TREE_SIZE - 1)]))
    for heads, tree in ((None, PLAIN), (random_heads(base, 3), WIDE), (random_heads(base, 3), widest)):
        context = Context(base.new_cache())
        steps = run(base, heads, tree, SamplingOptions(temperature=0.0, max_tokens=500), context=context)
        assert steps[-1].finish_reason == "context"
        assert len(ids(steps)) + 2 == 40
        assert context.cache.length <= 40
        assert context.cache.capacity == 40 + SPARE_ROWS  # no tree needed more rows than were planned


def test_options_are_read_at_every_step() -> None:
    base = counting_model()
    heads = table_heads(base.table, 3)
    drafting = [True]
    options = SamplingOptions(temperature=0.0, max_tokens=100)
    steps = generate(
        base,
        heads,
        Context(base.new_cache()),
        [1],
        lambda: options,
        lambda _: CHAIN if drafting[0] else PLAIN,
    )
    assert [len(step.ids) for step in islice(steps, 3)] == [1, 4, 4]
    drafting[0] = False
    assert [len(step.ids) for step in islice(steps, 3)] == [1, 1, 1]
    drafting[0] = True
    assert [len(step.ids) for step in islice(steps, 2)] == [4, 4]
    options = SamplingOptions(temperature=0.0, max_tokens=5)  # fewer than are out already
    assert [(step.ids, step.finish_reason) for step in steps] == [([], "length")]


def test_cancelling_leaves_the_cache_usable() -> None:
    base = tiny_llama()
    heads = random_heads(base, 3)
    context = Context(base.new_cache())
    steps = generate(base, heads, context, [1, 2, 3], lambda: GREEDY, lambda _: WIDE)
    some = [token for step in islice(steps, 4) for token in step.ids]
    steps.close()
    assert context.cache.length == len(context.ids)
    assert context.ids == [1, 2, 3, *some[:-1]]
    fresh = ids(run(base, None, PLAIN, prompt=[1, 2, 3, *some, 9]))
    assert ids(run(base, heads, WIDE, prompt=[1, 2, 3, *some, 9], context=context)) == fresh


def test_the_longest_common_prefix_is_reused() -> None:
    base = tiny_llama()
    context = Context(base.new_cache())
    run(base, random_heads(base, 3), WIDE, prompt=[5, 6, 7, 8], context=context)
    assert context.reuse([5, 6, 9, 8]) == 2
    assert context.ids == [5, 6]
    assert context.cache.length == 2
    run(base, None, PLAIN, prompt=[5, 6, 7, 8], context=context)
    assert context.reuse([5, 6, 7, 8]) == 3  # the last prompt token always runs
    assert context.reuse([1]) == 0
