"""How many nodes a step drafts, and what a session's plans propose."""

from __future__ import annotations

import pytest
import torch

from medusa_chat.decoding.draft import Candidates
from medusa_chat.decoding.generate import Context, generate
from medusa_chat.decoding.planning import Plan, SizeChooser, fixed_plan, plain_plan, propose
from medusa_chat.decoding.tuning import measure_sizes
from medusa_chat.records import SamplingOptions
from tests.tiny import TableModel, random_heads, table_heads, tiny_llama

SECONDS = {1: 1.0, 4: 1.1, 8: 1.3, 16: 2.0}
PATHS = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0)]
WITH_CHAIN = Candidates(PATHS, chain_length=15)


def grows(*expected: float) -> dict[int, float]:
    return dict(zip(SECONDS, expected, strict=True))


@pytest.mark.parametrize(
    ("expected", "size"),
    [
        ((1, 1.05, 1.08, 1.1), 1),  # no draft is worth its rows
        ((1, 1.5, 1.6, 1.7), 4),
        ((1, 1.5, 2.0, 2.2), 8),
        ((1, 2.0, 4.0, 9.0), 16),
    ],
)
def test_the_size_of_most_tokens_a_second(expected: tuple[float, ...], size: int) -> None:
    assert SizeChooser(grows(1, 1, 1, 1)).choose(grows(*expected), SECONDS) == size


def test_hopes_that_come_true_are_trusted_on() -> None:
    chooser = SizeChooser(grows(1, 1, 1, 1))
    for i in range(200):
        chooser.observe(2.0, 1 + 2 * (i % 2))  # one draft a step on the whole
    assert chooser.trust == pytest.approx(1.0, abs=0.05)


def test_heads_that_are_never_right_are_given_up_and_tried_again() -> None:
    chooser, boast = SizeChooser(grows(1, 1, 1, 1)), grows(1, 2.0, 2.2, 2.4)
    sizes, asked = [], 0
    for _ in range(600):
        resting = chooser.is_resting()
        asked += not resting
        expected = grows(1, 1, 1, 1) if resting else boast
        size = chooser.choose(expected, SECONDS)
        chooser.observe(expected[size], 1)
        sizes.append(size)
    assert sizes[0] > 1
    assert 0 < sum(size > 1 for size in sizes[200:]) < 40
    assert asked < 300
    # And when they are right at last, they come back.
    for _ in range(300):
        expected = grows(1, 1, 1, 1) if chooser.is_resting() else boast
        size = chooser.choose(expected, SECONDS)
        chooser.observe(expected[size], round(expected[size]))
    assert size > 1
    assert chooser.trust > 0.8


def test_a_rest_is_told_by_the_question_after_it() -> None:
    nothing = grows(1, 1, 1, 1)
    chooser = SizeChooser(nothing)
    rests = []
    for _ in range(12):
        rests.append(chooser.is_resting())
        chooser.choose(nothing, SECONDS)
    assert rests == [False, True, False, True, True, False, True, True, True, True, False, True]


def test_ahead_it_goes_by_the_pools_before() -> None:
    chooser = SizeChooser(grows(1, 1.5, 2.0, 2.2))
    assert chooser.choose_ahead(SECONDS) == 8
    for _ in range(40):
        chooser.see(grows(1, 2.0, 4.0, 9.0))
    assert chooser.choose_ahead(SECONDS) == 16
    for _ in range(40):
        chooser.see(grows(1, 1.05, 1.08, 1.1))
    # Not worth it; the smallest draft now and then looks whether it has become so.
    sizes = [chooser.choose_ahead(SECONDS) for _ in range(100)]
    assert set(sizes) == {1, 4}
    assert sizes[0] == sizes[2] == 4
    assert 5 < sizes.count(4) < 9
    for _ in range(40):
        chooser.see(grows(1, 2.0, 4.0, 9.0))
    assert chooser.choose_ahead(SECONDS) == 16
    assert SizeChooser({1: 1.0}).choose_ahead({1: 0.1}) == 1


def test_sizes_are_timed_until_one_costs_more_than_it_can_bring() -> None:
    timed = []

    def measure(size: int) -> float:
        timed.append(size)
        return 1 + size / 8

    assert list(measure_sizes(measure, 269)) == [1, 4, 8, 16]
    assert timed == [1, 4, 8, 16]  # at 16 a step costs 3 of 1.125
    assert list(measure_sizes(measure, 16)) == [1, 4, 8, 16]
    assert list(measure_sizes(lambda size: 1.0, 16)) == [1, 4, 8, 16]
    assert list(measure_sizes(lambda size: 1.0, 269)) == [1, 4, 8, 16, 32, 64]


def cycle_model(size: int = 12) -> TableModel:
    """After token i comes i + 1, round and round."""
    return TableModel(torch.roll(torch.eye(size), 1, dims=1) * 20)


@torch.inference_mode()
def test_what_is_proposed() -> None:
    base = cycle_model()
    heads = table_heads(base.table, 3)
    text = torch.tensor([1, 2, 3, 4, 2, 3])
    hidden = base.forward(text[None, -2:-1], base.new_cache())[0]
    draft, expected = propose(fixed_plan(WITH_CHAIN, 5), base, heads, hidden, text)
    # The heads are sure of 4, 5, 6; the chain has 4, 2, 3, …
    assert draft.ids[:2].tolist() == [3, 4]
    assert len(draft) == 5
    assert expected is not None
    assert 1 < expected <= 5
    plain, hoped = propose(plain_plan(), base, heads, hidden, text)
    assert plain.ids.tolist() == [3]
    assert hoped is None


def test_without_heads_a_repetition_is_drafted() -> None:
    base = cycle_model(6)
    options = SamplingOptions(temperature=0.0, max_tokens=60)
    plan = fixed_plan(Candidates([], chain_length=15), 16)
    replies = {}
    for name, used in (("plain", plain_plan()), ("chain", plan)):
        steps = list(
            generate(base, None, Context(base.new_cache()), [0, 1], lambda: options, lambda _, p=used: p)
        )
        replies[name] = [token for step in steps for token in step.ids]
        if name == "chain":
            assert len(steps) < 15  # six steps go round once, then up to 16 tokens a step
    assert replies["plain"] == replies["chain"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("num_nodes", [2, 5, 16])
def test_dynamic_drafts_change_no_token(temperature: float, num_nodes: int) -> None:
    base = tiny_llama()
    heads = random_heads(base, 3)
    options = SamplingOptions(temperature=temperature, top_p=0.9, max_tokens=60)
    for seed in range(3):
        replies = []
        for plan in (plain_plan(), fixed_plan(WITH_CHAIN, num_nodes)):
            steps = generate(
                base,
                heads,
                Context(base.new_cache()),
                [1, 4, 2],
                lambda: options,
                lambda _, plan=plan: plan,
                generator=torch.Generator().manual_seed(seed),
            )
            replies.append([token for step in steps for token in step.ids])
        assert replies[0] == replies[1]


def test_a_plan_sees_what_the_pool_expects() -> None:
    base = cycle_model()
    seen: list[list[float]] = []

    def smallest(pool: object) -> int:
        seen.append(pool.expected.tolist())  # type: ignore[attr-defined]
        return 2

    options = SamplingOptions(temperature=0.0, max_tokens=6)
    plan = Plan(WITH_CHAIN, smallest)
    heads = table_heads(base.table, 3)
    steps = list(generate(base, heads, Context(base.new_cache()), [1, 2], lambda: options, lambda _: plan))
    assert all(row[0] == 1.0 and row == sorted(row) for row in seen)
    assert [step.expected for step in steps[1:]] == [pytest.approx(row[1]) for row in seen]
