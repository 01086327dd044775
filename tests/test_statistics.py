from __future__ import annotations

import pytest

from medusa_chat.records import StepStats
from medusa_chat.statistics import ReplyStatistics


def _after(*steps: tuple[int, int, float]) -> ReplyStatistics:
    """Each step as (nodes, tokens, seconds)."""
    statistics = ReplyStatistics()
    for num_nodes, num_tokens, seconds in steps:
        statistics.add(StepStats(num_nodes, num_tokens, seconds, context_tokens=0))
    return statistics


def test_the_prefill_counts_towards_the_first_token_only() -> None:
    statistics = _after((0, 1, 0.5), (16, 3, 0.1), (16, 1, 0.1), (16, 3, 0.2))
    assert statistics.completion_tokens == 8
    assert statistics.steps == 3
    assert statistics.tokens_per_step == pytest.approx(7 / 3)
    assert statistics.tokens_per_second == pytest.approx(17.5)
    assert statistics.time_to_first_token == 0.5
    assert statistics.accepted_histogram == {1: 1, 3: 2}
    assert list(statistics.accepted_histogram) == [1, 3]


def test_speedup_is_against_one_token_for_each_plain_step() -> None:
    statistics = _after((0, 1, 0.5), (16, 4, 0.2))
    assert statistics.speedup(0.1) == pytest.approx(2.0)
    assert statistics.speedup(None) is None


def test_speedup_is_at_most_the_tokens_of_a_step() -> None:
    busy_at_load = 1.0
    assert _after((0, 1, 0.5), (16, 4, 0.2), (16, 2, 0.2)).speedup(busy_at_load) == pytest.approx(3.0)


def test_the_first_token_may_come_after_a_prefill_in_parts() -> None:
    assert _after((0, 0, 0.5), (0, 1, 0.25), (1, 1, 4.0)).time_to_first_token == 0.75


def test_nothing_is_made_up_before_there_are_steps() -> None:
    for statistics in (_after(), _after((0, 0, 0.5))):
        assert statistics.tokens_per_step is None
        assert statistics.tokens_per_second is None
        assert statistics.time_to_first_token is None
        assert statistics.speedup(0.1) is None
        assert statistics.accepted_histogram == {}


def _after_steps(*steps: StepStats) -> ReplyStatistics:
    statistics = ReplyStatistics()
    for step in steps:
        statistics.add(step)
    return statistics


def test_a_head_is_judged_by_the_steps_it_drafted_for() -> None:
    statistics = _after_steps(
        StepStats(0, 1, 0.5, 10),
        StepStats(16, 3, 0.1, 13, head_depth=3, heads_kept=2),
        StepStats(16, 4, 0.1, 17, head_depth=1, heads_kept=1),  # two more were looked up
        StepStats(1, 1, 0.1, 18),
        StepStats(8, 1, 0.1, 19, head_depth=2),
    )
    assert [statistics.hit_rate(head) for head in (1, 2, 3, 4)] == [2 / 3, 1 / 2, 0.0, None]
    assert (statistics.drafts_offered, statistics.drafts_accepted) == (15 + 15 + 7, 2 + 3)


def test_energy_is_of_the_tokens_between_two_readings() -> None:
    readings = ((0, 1, 0.0), (16, 4, None), (16, 3, 5.0), (16, 2, None), (16, 1, 7.0), (16, 9, None))
    steps = [StepStats(nodes, tokens, 0.1, 0, joules=joules) for nodes, tokens, joules in readings]
    assert _after_steps(*steps).joules_per_token == pytest.approx(7.0 / 10)
    assert _after_steps(*steps[2:]).joules_per_token == pytest.approx(2.0 / 3)  # restarted in between
    assert _after_steps(*steps[:2]).joules_per_token is None
    assert _after_steps().joules_per_token is None
