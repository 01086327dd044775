"""The comparison of plain and drafted decoding: on sessions of known speed, and on a tiny real one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest

from medusa_chat.bench.speed import compare
from medusa_chat.engine.session import Session
from medusa_chat.prompt_file import UserPrompt
from medusa_chat.records import Chunk, EngineInfo, Message, ReplyStarted, SamplingOptions, StepStats
from tests.tiny import random_heads
from tests.training.chatty import chatty_model

GREEDY = SamplingOptions(temperature=0.0, max_tokens=9)
PROMPTS = [
    UserPrompt("first", "math"),
    UserPrompt("second", "math"),
    UserPrompt("third"),
    UserPrompt("odd", "x"),
]


class TimedSession:
    """Nine tokens after the prefill: plainly in 0.1 s each, with drafts three at a time in 0.2 s."""

    def __init__(self) -> None:
        self.options = SamplingOptions()
        self.asked: list[tuple[str, bool]] = []

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("tiny", "4bit", "cpu", "a CPU", "float32", 100, 4, 16, 0, {1: 0.1, 16: 0.2})

    def reply(self, messages: Sequence[Message]) -> Iterator[ReplyStarted | Chunk]:
        drafting, text = self.options.drafting, messages[0].content
        self.asked.append((text, drafting))
        yield ReplyStarted(5, 0, 0)
        yield Chunk("", (0,), StepStats(0, 1, 50.0, 5))  # the prefill counts on neither side
        size = 3 if drafting else 1
        for start in range(1, 10, size):
            ids = tuple(range(start, start + size))
            if drafting and text == "odd":
                ids = tuple(-token for token in ids)
            yield Chunk("", ids, StepStats(16 if drafting else 1, size, 0.2 if drafting else 0.1, 6))


def compared(
    session: Any, prompts: Sequence[UserPrompt], options: SamplingOptions = GREEDY
) -> dict[str, Any]:
    done: list[int] = []
    report = compare(cast(Session, session), prompts, options, done.append)
    assert done == list(range(1, len(prompts) + 1))
    return report


def test_the_report_is_the_sum_of_steps() -> None:
    report = compared(TimedSession(), PROMPTS)
    categories = report.pop("categories")
    plain = {"tokens_per_second": pytest.approx(10), "ms_per_step": pytest.approx(100)}
    medusa = {"tokens_per_second": pytest.approx(15), "ms_per_step": pytest.approx(200), "tokens_per_step": 3}
    sides = {"plain": plain, "speedup": pytest.approx(1.5)}
    assert report.pop("machine").startswith("a CPU, ")
    assert report == {
        **sides,
        "medusa": {**medusa, "accepted_histogram": {3: 12}},
        "identical": 3,
        "prompts": 4,
        "tree_size": 16,
        "max_tokens": 9,
        "model": "tiny",
        "quantization": "4bit",
        "dtype": "float32",
        "kv_cache": "full",
        "lm_head": "full",
        "device": "cpu",
    }
    assert categories == {
        "math": {**sides, "medusa": {**medusa, "accepted_histogram": {3: 6}}, "identical": 2, "prompts": 2},
        "all": {**sides, "medusa": {**medusa, "accepted_histogram": {3: 3}}, "identical": 1, "prompts": 1},
        "x": {**sides, "medusa": {**medusa, "accepted_histogram": {3: 3}}, "identical": 0, "prompts": 1},
    }


def test_which_goes_first_alternates() -> None:
    session = TimedSession()
    compared(session, PROMPTS[:3])
    assert session.asked == [
        ("first", False),
        ("first", True),
        ("second", True),
        ("second", False),
        ("third", False),
        ("third", True),
    ]


def test_the_tree_size_asked_for_is_reported() -> None:
    assert (
        compared(TimedSession(), PROMPTS[:1], SamplingOptions(temperature=0, tree_size=5))["tree_size"] == 5
    )


def test_answers_of_one_token_give_no_rates() -> None:
    class Terse(TimedSession):
        def reply(self, messages: Sequence[Message]) -> Iterator[ReplyStarted | Chunk]:
            yield Chunk("", (2,), StepStats(0, 1, 0.5, 6), "eos")

    report = compared(Terse(), PROMPTS[:2])
    assert report["plain"] == {"tokens_per_second": None, "ms_per_step": None}
    assert report["medusa"]["tokens_per_step"] is None
    assert (report["speedup"], report["identical"], report["prompts"]) == (None, 2, 2)


def test_a_real_session_gives_a_report_that_holds_together() -> None:
    model = chatty_model()
    session = Session(model, random_heads(model.base, 3))
    prompts = [UserPrompt("What is it ?", "what"), UserPrompt("Why is it ?", "why")]
    report = json.loads(
        json.dumps(compared(session, prompts, SamplingOptions(temperature=0.0, max_tokens=30)))
    )
    assert report["identical"] == report["prompts"] == 2
    assert set(report["categories"]) == {"what", "why"}
    histogram = report["medusa"]["accepted_histogram"]
    decoded = sum(int(tokens) * steps for tokens, steps in histogram.items())
    assert report["medusa"]["tokens_per_step"] == pytest.approx(decoded / sum(histogram.values()))
    assert report["speedup"] == pytest.approx(
        report["medusa"]["tokens_per_second"] / report["plain"]["tokens_per_second"]
    )
    parts = [part["medusa"]["accepted_histogram"] for part in report["categories"].values()]
    assert sum(sum(part.values()) for part in parts) == sum(histogram.values())
