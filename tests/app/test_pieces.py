"""The pure pieces of the app, by literal tables."""

from __future__ import annotations

import pytest

from medusa_chat.app import dials, figures
from medusa_chat.app.bars import horizontal_bar, sparkline
from medusa_chat.app.conversation import Conversation
from medusa_chat.app.meter import PlainReference, ReplyMeter
from medusa_chat.records import Message, SamplingOptions, StepStats


def test_meter_adds_up_steps_and_leaves_out_the_prefill() -> None:
    meter = ReplyMeter(PlainReference(0.02))
    meter.add(StepStats(num_nodes=0, num_tokens=1, seconds=5.0, context_tokens=11))
    assert (meter.figures.tokens_per_second, meter.speedup, meter.context_tokens) == (None, None, 11)
    for num_tokens in (3, 1, 2):
        meter.add(StepStats(16, num_tokens, 0.025, 20))
    assert meter.figures.tokens_per_second == pytest.approx(6 / 0.075)
    assert meter.speedup == pytest.approx(6 / 0.075 * 0.02)  # 1.6 times as fast as one token in 20 ms
    assert (meter.num_nodes, meter.reply_tokens, meter.tokens_now) == (16, 7, 2.0)


def test_meter_knows_no_speedup_without_a_reference_or_without_drafts() -> None:
    unmeasured, plain = ReplyMeter(), ReplyMeter(PlainReference(0.02))
    unmeasured.add(StepStats(16, 2, 0.025, 10))
    plain.add(StepStats(1, 1, 0.02, 10))
    assert unmeasured.speedup is plain.speedup is None
    assert plain.figures.tokens_per_second == pytest.approx(50)


def test_meter_restarted_keeps_the_length_of_the_reply() -> None:
    meter = ReplyMeter(PlainReference(0.02))
    meter.add(StepStats(16, 4, 0.025, 14))
    meter.restart()
    assert (meter.figures.tokens_per_step, meter.speedup, meter.reply_tokens) == (None, None, 4)


def test_plain_steps_of_the_session_replace_the_reference_once_there_are_enough() -> None:
    plain = PlainReference(0.030)
    meter = ReplyMeter(plain)
    for _ in range(15):
        meter.add(StepStats(1, 1, 0.020, 10))
        meter.add(StepStats(16, 2, 0.025, 10))
    assert (plain.seconds, figures.plain_speed(plain)) == (0.030, "33.3 timed at load")
    ReplyMeter(plain).add(StepStats(1, 1, 5.0, 10))  # of another reply, and held up: the median bears it
    assert (plain.seconds, figures.plain_speed(plain)) == (0.020, "50.0 timed in session")
    assert figures.plain_speed(PlainReference()) == "–"


@pytest.mark.parametrize(
    ("turn", "before", "notches", "after"),
    [
        ("temperature", 0.2, 1, 0.3),
        ("temperature", 0.2, -1, 0.1),
        ("temperature", 0.05, -1, 0.0),
        ("temperature", 2.0, 1, 2.0),
        ("top_p", 0.9, 1, 0.95),
        ("top_p", 1.0, 1, 1.0),
        ("top_p", 0.05, -1, 0.05),
        ("top_k", 0, -1, 100),
        ("top_k", 100, 1, 0),
        ("top_k", 0, 1, 0),
        ("top_k", 7, 1, 10),
        ("top_k", 7, -1, 5),
        ("top_k", 1, -1, 1),
    ],
)
def test_notches(turn: str, before: float, notches: int, after: float) -> None:
    options = dials.set_option(SamplingOptions(), turn.replace("_", "-"), str(before))
    assert getattr(getattr(dials, f"turn_{turn}")(options, notches), turn) == after


def test_exact_values() -> None:
    options = SamplingOptions()
    for name, value in (("seed", "7"), ("tree-size", "16"), ("drafting", "off"), ("acceptance", "typical")):
        options = dials.set_option(options, name, value)
    assert options == SamplingOptions(seed=7, tree_size=16, drafting=False, acceptance="typical")
    assert dials.set_option(options, "seed", "auto").seed is None


def test_bars() -> None:
    assert horizontal_bar(0.5, 4) == "━━  "
    assert horizontal_bar(0.375, 4) == "━╸  "
    assert horizontal_bar(2.0, 2) == "━━"
    assert sparkline((1, 5, 3, 9), highest=5, width=6) == "▁█▅█  "
    assert sparkline(range(1, 6), highest=5, width=2) == "▆█"
    assert sparkline((), highest=5, width=2) == "  "


def test_messages_for_the_engine_alternate() -> None:
    conversation = Conversation("Be kind.")
    conversation.add("user", "lost to a crash")
    conversation.add("user", "again")
    conversation.add("assistant", "yes", partial=True)
    conversation.add("user", "far too long")
    conversation.refuse_question()
    conversation.add("user", "shorter")
    assert conversation.messages() == (
        Message("system", "Be kind."),
        Message("user", "lost to a crash\n\nagain"),
        Message("assistant", "yes"),
        Message("user", "shorter"),
    )
