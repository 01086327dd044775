"""The pure pieces of the app, by literal tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual.content import Content

from medusa_chat.app import dial_table, figures
from medusa_chat.app.bars import horizontal_bar, sparkline
from medusa_chat.app.conversation import Conversation
from medusa_chat.app.dial import Setup
from medusa_chat.app.dials import Dials
from medusa_chat.app.meter import PlainReference, ReplyMeter
from medusa_chat.app.panel import WIDTH, draft_lines, model_lines, speed_lines
from medusa_chat.records import EngineInfo, LoadRequest, Message, SamplingOptions, StepStats


def set_option(options: SamplingOptions, name: str, value: str) -> SamplingOptions:
    return Dials().set(Setup(options, None, ""), name, value).options


def test_meter_adds_up_steps_and_leaves_out_the_prefill() -> None:
    meter = ReplyMeter(PlainReference({1: 0.02}))
    meter.add(StepStats(num_nodes=0, num_tokens=1, seconds=5.0, context_tokens=11))
    assert (meter.figures.tokens_per_second, meter.speedup, meter.context_tokens) == (None, None, 11)
    for num_tokens in (3, 1, 2):
        meter.add(StepStats(16, num_tokens, 0.025, 20))
    assert meter.figures.tokens_per_second == pytest.approx(6 / 0.075)
    assert meter.speedup == pytest.approx(6 / 0.075 * 0.02)  # 1.6 times as fast as one token in 20 ms
    assert (meter.num_nodes, meter.reply_tokens, meter.tokens_now) == (16, 7, 2.0)


def test_meter_knows_no_speedup_without_a_reference_or_without_drafts() -> None:
    unmeasured, plain = ReplyMeter(), ReplyMeter(PlainReference({1: 0.02}))
    unmeasured.add(StepStats(16, 2, 0.025, 10))
    plain.add(StepStats(1, 1, 0.02, 10))
    assert unmeasured.speedup is plain.speedup is None
    assert plain.figures.tokens_per_second == pytest.approx(50)


def test_meter_restarted_keeps_the_length_of_the_reply() -> None:
    meter = ReplyMeter(PlainReference({1: 0.02}))
    meter.add(StepStats(16, 4, 0.025, 14))
    meter.restart()
    assert (meter.figures.tokens_per_step, meter.speedup, meter.reply_tokens) == (None, None, 4)


def meter_after(plain: PlainReference, num_steps: int, num_nodes: int, seconds: float) -> ReplyMeter:
    """Of a reply of these steps, each of which brought two tokens if it drafted."""
    meter = ReplyMeter(plain)
    for _ in range(num_steps):
        drafts = num_nodes > 1
        meter.add(StepStats(num_nodes, 2 if drafts else 1, seconds, 10, is_plain=not drafts))
    return meter


def test_plain_steps_of_the_session_replace_the_reference_once_there_are_enough() -> None:
    plain = PlainReference({1: 0.020, 16: 0.025})
    assert figures.plain_speed(meter_after(plain, 3, 1, 0.030)) == "50.0 timed at load"
    drafted = meter_after(plain, 4, 16, 0.025)
    assert figures.plain_speed(drafted) == "50.0 timed at load"
    meter_after(plain, 1, 1, 5.0)  # of another reply, and held up: the median bears it
    assert (figures.plain_speed(drafted), drafted.plain_seconds) == ("33.3 timed in session", 0.030)
    assert drafted.speedup == 2.0  # never more than the tokens of a step
    meter_after(plain, 1024, 16, 0.025)
    assert figures.plain_speed(drafted) == "50.0 timed at load"  # those steps are long ago
    assert figures.plain_speed(ReplyMeter()) == "–"


@pytest.mark.parametrize(
    ("num_nodes", "seconds", "told"),
    [
        (16, 0.040, "at load"),
        (16, 0.050, "when quieter"),
        (16, 0.010, "when busier"),
        (12, 9.0, "at load"),  # a size that nobody timed tells nothing
    ],
)
def test_a_reference_of_another_machine_load_is_called_so(num_nodes: int, seconds: float, told: str) -> None:
    meter = meter_after(PlainReference({1: 0.020, 16: 0.025}), 10, num_nodes, seconds)
    assert figures.plain_speed(meter) == f"50.0 timed {told}"
    (row,) = (line for line in speed_lines(meter, SamplingOptions(), INFO) if "Speed-up" in str(line))
    is_warned = any("$warning" in str(span.style) for span in row.spans)
    assert is_warned == ("load" not in told and num_nodes > 1)


def test_steps_of_one_node_that_asked_the_heads_are_no_reference() -> None:
    plain = PlainReference({1: 0.020, 16: 0.025})
    meter = meter_after(plain, 1, 16, 0.025)
    for _ in range(40):
        meter.add(StepStats(1, 1, 0.090, 10))  # it asked the heads, and they had nothing that pays
    assert figures.plain_speed(meter) == "50.0 timed at load"


def test_speed_now_is_of_the_last_second() -> None:
    meter = ReplyMeter()
    for num_tokens, seconds in ((1, 4.0), (3, 0.5), (1, 0.25), (2, 0.25)):
        meter.add(StepStats(16, num_tokens, seconds, 10))
    assert meter.tokens_per_second_now == pytest.approx(6.0)
    assert meter.figures.tokens_per_second == pytest.approx(7 / 5.0)
    assert ReplyMeter().tokens_per_second_now is None


def test_time_to_the_first_token_is_from_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, 100.75, 999.0))
    monkeypatch.setattr("medusa_chat.app.meter.time.monotonic", lambda: next(clock))
    meter = ReplyMeter()
    assert figures.first_token(meter) == "–"
    for step in (StepStats(0, 0, 0.2, 9), StepStats(0, 1, 0.2, 10), StepStats(16, 3, 0.1, 13)):
        meter.add(step)
    meter.restart()
    meter.add(StepStats(16, 3, 0.1, 16))
    assert figures.first_token(meter) == "0.75 s"


INFO = EngineInfo("a", "none", "cpu", "A processor", "float32", 8192, 5, 16, 10**8, {1: 0.02, 16: 0.025})


def text_of(lines: list[Content]) -> list[str]:
    assert all(line.cell_length <= WIDTH for line in lines)
    return [str(line) for line in lines]


def test_panel_shows_how_often_each_head_was_right() -> None:
    meter = ReplyMeter()
    for num_tokens, head_depth, heads_kept in ((1, 3, 0), (3, 3, 2), (8, 2, 2), (2, 3, 1)):
        meter.add(StepStats(16, num_tokens, 0.025, 10, head_depth, heads_kept))
    assert text_of(draft_lines(meter, INFO)) == [
        "Drafts",
        "Tree size                   16",
        "Accepted          10 / 60  17%",
        "Per step   3.50 now   3.50 avg",
        "Tokens a step   Heads right",
        "1  ━╸      25%  1  ━━━━╸   75%",
        "2  ━╸      25%  2  ━━━     50%",
        "3  ━╸      25%  3           0%",  # asked three times, never right
        "4               4             ",  # never asked
        "5               5             ",
        "6+ ━╸      25%                ",
        "▁▄█▂                          ",
    ]
    without_heads = text_of(draft_lines(ReplyMeter(), replace(INFO, num_heads=0)))
    assert without_heads[4].strip() == "Tokens a step"
    assert len(without_heads) == 4 + 1 + 5 + 1


def test_energy_has_a_line_where_somebody_tells_it() -> None:
    meter = ReplyMeter()
    for num_nodes, num_tokens, joules in ((0, 1, 0.0), (16, 3, None), (16, 2, 4.0)):
        meter.add(StepStats(num_nodes, num_tokens, 0.1, 10, joules=joules))
    for source, label in (("card", "Card energy"), ("package", "CPU energy")):
        lines = text_of(speed_lines(meter, SamplingOptions(), replace(INFO, energy_source=source)))
        assert [line.split() for line in lines if "energy" in line] == [[*label.split(), "0.80", "J/token"]]
    assert not any("energy" in line for line in text_of(speed_lines(meter, SamplingOptions(), INFO)))


def test_a_cache_in_8_bits_and_an_lm_head_in_4_have_lines() -> None:
    request = LoadRequest("a")
    small = text_of(model_lines(request, replace(INFO, kv_cache="8bit", lm_head="4bit")))
    assert [line.split() for line in small if line not in text_of(model_lines(request, INFO))] == [
        ["KV", "cache", "8-bit"],
        ["LM", "head", "4-bit"],
    ]


def test_no_figure_is_too_wide_for_the_panel() -> None:
    meter = ReplyMeter(PlainReference({1: 0.0001, 64: 0.0001}))
    for joules in range(2000):
        meter.add(StepStats(64, 16, 0.0002, 1_000_000, 5, 5, joules * 1e5))
    info = replace(INFO, context_length=1_048_576, energy_source="package")
    full = text_of([*speed_lines(meter, SamplingOptions(), info), *draft_lines(meter, info)])
    # Nor is there a line more or less than before the first step: nothing is laid out anew in a reply.
    empty = text_of([*speed_lines(ReplyMeter(), SamplingOptions(), info), *draft_lines(ReplyMeter(), info)])
    assert len(full) == len(empty)


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
    options = set_option(SamplingOptions(), turn.replace("_", "-"), str(before))
    assert getattr(getattr(dial_table, f"turn_{turn}")(options, notches), turn) == after


def test_exact_values() -> None:
    options = SamplingOptions()
    for name, value in (("seed", "7"), ("tree-size", "16"), ("drafting", "off"), ("acceptance", "typical")):
        options = set_option(options, name, value)
    assert options == SamplingOptions(seed=7, tree_size=16, drafting=False, acceptance="typical")
    assert set_option(options, "seed", "auto").seed is None


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
