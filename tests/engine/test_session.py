"""The session on the real default model and its shipped heads, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medusa_chat.bench.speed import OWN_PROMPTS
from medusa_chat.engine import session as session_module
from medusa_chat.engine.energy import EnergyMeter
from medusa_chat.engine.opening import open_heads, open_model
from medusa_chat.engine.session import Session
from medusa_chat.errors import (
    HeadsMismatch,
    ModelNotFound,
    OutOfMemory,
    PromptTooLong,
    UnsupportedModel,
    UsageError,
)
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.prompt_file import read_prompt_file
from medusa_chat.records import (
    BASE_ORIGIN,
    LOOKUP_ORIGIN,
    Chunk,
    DType,
    KVPrecision,
    LoadRequest,
    Message,
    Quantization,
    ReplyStarted,
    SamplingOptions,
)
from medusa_chat.registry import HEADS_DIR

GREEDY = SamplingOptions(temperature=0.0, max_tokens=48)
QUESTION = [Message("user", "List three fruits and say one thing about each.")]
OpenSession = Callable[..., Session]


@pytest.fixture(scope="module")
def open_session(default_model: Path) -> OpenSession:
    def opened(quantization: Quantization, dtype: DType, kv_cache: KVPrecision = "full") -> Session:
        heads = str(HEADS_DIR / "smollm2-135m")
        request = LoadRequest(str(default_model), heads, quantization, "cpu", dtype, kv_cache)
        model = open_model(request, lambda progress: None)
        return Session(model, open_heads(model, heads))

    return opened


@pytest.fixture(scope="module")
def session(open_session: OpenSession) -> Session:
    return open_session("none", "auto")


def reply(session: Session, messages: list[Message], options: SamplingOptions) -> list[Chunk]:
    session.options = options
    return [item for item in session.reply(messages) if isinstance(item, Chunk)]


def ids(chunks: list[Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.ids]


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_what_is_loaded(session: Session) -> None:
    info = session.info
    assert (info.num_heads, info.context_length, info.device) == (5, 8192, "cpu")
    assert info.tree_size in info.step_seconds
    assert info.step_seconds[1] > 0
    assert info.memory_bytes > 250e6


def test_drafting_changes_no_token_and_saves_steps(session: Session) -> None:
    plain = reply(session, QUESTION, replace(GREEDY, drafting=False))
    assert all(len(chunk.ids) == 1 for chunk in plain)
    for tree_size in (4, 16, 64):
        drafted = reply(session, QUESTION, replace(GREEDY, tree_size=tree_size))
        assert ids(drafted) == ids(plain)
        assert len(drafted) < 0.8 * len(plain)
        assert {chunk.step.num_nodes for chunk in drafted} == {0, tree_size}
        static = reply(session, QUESTION, replace(GREEDY, tree_size=tree_size, tree="static"))
        assert ids(static) == ids(plain)
        assert len(static) >= len(drafted)
    assert ids(reply(session, QUESTION, GREEDY)) == ids(plain)


@pytest.mark.parametrize("in_file", [False, True])
def test_a_tree_by_name_or_from_a_file_changes_no_token(
    session: Session, tmp_path: Path, in_file: bool
) -> None:
    tree, num_nodes = "zephyr_stage2", 64
    if in_file:
        file = tmp_path / "tree.json"
        file.write_text("[[0], [1], [2], [0, 0], [0, 1], [0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0, 0]]")
        tree, num_nodes = str(file), 9
    drafted = reply(session, QUESTION, replace(GREEDY, tree=tree))
    assert ids(drafted) == ids(reply(session, QUESTION, replace(GREEDY, drafting=False)))
    assert {chunk.step.num_nodes for chunk in drafted} == {0, num_nodes}
    assert len(drafted) < 0.8 * len(ids(drafted))


def test_a_tree_deeper_than_the_heads_is_refused_before_anything_is_said(
    session: Session, tmp_path: Path
) -> None:
    file = tmp_path / "tree.json"
    file.write_text("[[0], [0, 0], [0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]")
    session.options = replace(GREEDY, tree=str(file))
    with pytest.raises(UsageError, match="6 deep, but there are only 5 heads; choose a smaller one"):
        next(session.reply(QUESTION))


def test_without_heads_what_the_conversation_repeats_is_drafted(default_model: Path) -> None:
    session = Session(open_model(LoadRequest(str(default_model), device="cpu"), lambda progress: None), None)
    question = [Message("user", "Repeat this line ten times: The cat sat on the mat and looked at the moon.")]
    plain = reply(session, question, replace(GREEDY, drafting=False))
    drafted = reply(session, question, GREEDY)
    assert ids(drafted) == ids(plain)
    assert len(drafted) < 0.6 * len(plain)
    assert session.info.num_heads == 0


def test_a_seed_gives_the_same_reply_with_and_without_drafts(session: Session) -> None:
    options = SamplingOptions(temperature=0.8, top_p=0.9, seed=5, max_tokens=40)
    plain = reply(session, QUESTION, replace(options, drafting=False))
    assert ids(reply(session, QUESTION, options)) == ids(plain)
    assert ids(reply(session, QUESTION, replace(options, seed=6))) != ids(plain)


def test_plain_steps_in_between_are_told_and_change_no_token(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SamplingOptions(temperature=0.8, top_p=0.9, seed=5, max_tokens=60, tree_size=16)
    drafted = reply(session, QUESTION, options)
    assert not any(chunk.step.is_plain for chunk in drafted)
    monkeypatch.setattr(session, "_num_planned", 0)
    monkeypatch.setattr(session, "times_plain_steps", True)
    timed = reply(session, QUESTION, options)
    assert ids(timed) == ids(drafted)
    plain = [number for number, chunk in enumerate(timed) if chunk.step.is_plain]  # the prefill is number 0
    assert plain[:1] == [4]
    assert plain == [number for number in (4, 8, 16, 24) if number < len(timed) - 1]
    assert all(chunk.step.num_nodes == 1 for chunk in timed if chunk.step.is_plain)
    assert all(
        chunk.step.is_plain for chunk in reply(session, QUESTION, replace(options, drafting=False))[1:-1]
    )


def test_ends_at_eos_without_showing_it(session: Session) -> None:
    chunks = reply(session, [Message("user", "What is the capital of France?")], GREEDY)
    assert chunks[-1].finish_reason == "eos"
    assert "Paris" in text(chunks)
    assert "<|" not in text(chunks)


def test_the_origin_of_each_character_is_told(session: Session) -> None:
    question = [Message("user", "Repeat this line ten times: The cat sat on the mat. Äpfel 🙂!")]
    kinds: set[int] = set()
    for stop in ((), ("mat. Ä",), ("never said",)):
        chunks = reply(session, question, replace(GREEDY, tree_size=16, stop=stop))
        for chunk in chunks:
            assert sum(length for length, _ in chunk.spans) == len(chunk.text)
            assert chunk.step.heads_kept <= min(chunk.step.head_depth, len(chunk.ids))
            kinds |= {origin for _, origin in chunk.spans}
        assert chunks[0].spans == ((len(chunks[0].text), BASE_ORIGIN),)
        assert chunks[0].step.head_depth == 0
    assert {BASE_ORIGIN, 1, LOOKUP_ORIGIN} <= kinds <= {LOOKUP_ORIGIN, *range(session.info.num_heads + 1)}


@pytest.mark.parametrize("options", [{"drafting": False}, {"tree": "static", "tree_size": 16}])
def test_origins_where_nothing_is_looked_up(session: Session, options: dict[str, Any]) -> None:
    for chunk in reply(session, QUESTION, replace(GREEDY, **options)):
        step = chunk.step
        # The last step may be cut, and then has no token of the base model's own.
        assert step.heads_kept == len(chunk.ids) - 1 or chunk.finish_reason == "length"
        assert (step.head_depth > 0) == (step.num_nodes > 1)
        assert all(origin >= BASE_ORIGIN for _, origin in chunk.spans)


def test_energy_is_read_at_the_beginning_and_at_the_end_of_a_reply(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_energy", EnergyMeter("package", CountingCounter()))
    monkeypatch.setattr("medusa_chat.engine.energy._SECONDS_BETWEEN_READINGS", 1e9)
    assert session.info.energy_source == "package"
    joules = [chunk.step.joules for chunk in reply(session, QUESTION, GREEDY)]
    assert (joules[0], joules[-1]) == (0.0, 1.0)  # one joule at each reading
    assert set(joules[1:-1]) == {None}


class CountingCounter:
    shortest = 0.0

    def __init__(self) -> None:
        self._joules = 0.0

    def read(self) -> float:
        self._joules += 1.0
        return self._joules


def test_stop_strings_end_a_reply(session: Session) -> None:
    whole = text(reply(session, QUESTION, GREEDY))
    stop = whole[20:26]
    chunks = reply(session, QUESTION, replace(GREEDY, stop=(stop,)))
    assert chunks[-1].finish_reason == "stop"
    assert text(chunks) == whole[: whole.index(stop)]


def test_a_second_turn_reuses_the_first(session: Session) -> None:
    first = reply(session, QUESTION, GREEDY)
    messages = [*QUESTION, Message("assistant", text(first)), Message("user", "Which is the sweetest?")]
    session.options = GREEDY
    items = list(session.reply(messages))
    started = items[0]
    assert isinstance(started, ReplyStarted)
    assert started.num_cached > started.num_prompt_tokens // 2
    again = [item for item in items if isinstance(item, Chunk)]
    reply(session, [Message("user", "Something else")], GREEDY)  # drives the first turn out of the cache
    assert ids(reply(session, messages, GREEDY)) == ids(again)


def test_with_a_cache_in_8_bits_drafts_and_reuse_change_no_token(
    session: Session, open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = open_session("none", "auto", "8bit")
    assert (small.info.kv_cache, session.info.kv_cache) == ("8bit", "full")
    plain = reply(small, QUESTION, replace(GREEDY, drafting=False))
    drafted = reply(small, QUESTION, replace(GREEDY, tree_size=16))
    assert ids(drafted) == ids(plain)
    assert len(drafted) < 0.8 * len(plain)
    messages = [*QUESTION, Message("assistant", text(plain)), Message("user", "Which is the sweetest?")]
    again = reply(small, messages, GREEDY)
    reply(small, [Message("user", "Something else")], GREEDY)  # drives the first turn out of the cache
    assert ids(reply(small, messages, GREEDY)) == ids(again)
    whole = [reply(session, messages, GREEDY), session.info.memory_bytes][1]
    rows = 30 * 2 * 3 * 1024  # that are shown
    assert whole - small.info.memory_bytes == rows * (4 * 64 - (64 + 4))

    def no_memory(*_: object, **__: object) -> Iterator[None]:
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    monkeypatch.setattr(session_module, "generate", no_memory)
    with pytest.raises(OutOfMemory, match=r"a smaller --quant\.$"):
        reply(small, QUESTION, GREEDY)
    assert small.info.kv_cache == "8bit"
    with pytest.raises(OutOfMemory, match=r"a smaller --quant or --kv-cache 8bit\.$"):
        reply(session, QUESTION, GREEDY)


def test_cancelling_keeps_the_session_usable(session: Session) -> None:
    session.options = GREEDY
    reasons = []
    session.cancelled = False
    for item in session.reply(QUESTION):
        if isinstance(item, Chunk):
            reasons.append(item.finish_reason)
            session.cancelled = len(reasons) >= 3
    session.cancelled = False
    assert reasons[-1] == "cancelled"
    assert len(reasons) == 4 or len(reasons) == 3
    unbroken = session.reply(QUESTION)
    next(unbroken)
    next(unbroken)
    unbroken.close()  # as Ctrl+C does
    assert reply(session, QUESTION, GREEDY)[-1].finish_reason == "length"


def test_options_take_effect_at_the_next_step(session: Session) -> None:
    session.options = replace(GREEDY, tree_size=8)
    sizes = []
    for item in session.reply(QUESTION):
        if isinstance(item, Chunk):
            sizes.append(item.step.num_nodes)
            session.options = replace(GREEDY, drafting=len(sizes) < 4, tree_size=8)
    assert sizes[:4] == [0, 8, 8, 8]
    assert set(sizes[4:]) == {1}


def test_running_out_of_memory_is_a_sentence_and_no_end(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> Iterator[None]:
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(session_module, "generate", no_memory)
        with pytest.raises(OutOfMemory, match="Memory ran out at"):
            reply(session, QUESTION, GREEDY)
    assert reply(session, QUESTION, GREEDY)


def test_what_can_not_be_opened(default_model: Path, tmp_path: Path) -> None:
    def opened(**request: str) -> None:
        model = open_model(LoadRequest(**request), lambda progress: None)  # type: ignore[arg-type]
        open_heads(model, request.get("heads"))

    with pytest.raises(ModelNotFound, match="Did you mean smollm2-135m"):
        opened(model="smollm-135")
    if not torch.cuda.is_available():
        with pytest.raises(UnsupportedModel, match="No CUDA device"):
            opened(model=str(default_model), device="cuda")
    BlockHeads.fresh(2, 1, 64).save(tmp_path)
    with pytest.raises(HeadsMismatch, match=r"hidden size of 64, but .* has 576"):
        opened(model=str(default_model), heads=str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantization", "dtype"), [("none", "float32"), ("none", "bfloat16"), ("4bit", "bfloat16")]
)
def test_twenty_prompts_are_answered_alike_at_every_tree_size(
    open_session: OpenSession, quantization: Quantization, dtype: DType
) -> None:
    session = open_session(quantization, dtype)
    options = SamplingOptions(temperature=0.0, max_tokens=128)
    different = []
    for prompt in read_prompt_file(OWN_PROMPTS).prompts[:20]:
        messages = [Message("user", prompt.text)]
        plain = ids(reply(session, messages, replace(options, drafting=False)))
        different += [
            (prompt.text, tree_size)
            for tree_size in (4, 16, 64)
            if ids(reply(session, messages, replace(options, tree_size=tree_size))) != plain
        ]
    assert not different


def test_the_options_say_what_a_full_context_does(session: Session) -> None:
    turn = [Message("user", "why " * 3000), Message("assistant", "so")]
    session.options = replace(GREEDY, max_tokens=2)
    full = [*turn, *turn, *turn, *QUESTION]
    started = next(iter(session.reply(full)))
    assert isinstance(started, ReplyStarted)
    assert started.num_dropped > 0
    session.options = replace(GREEDY, max_tokens=2, context="stop")
    with pytest.raises(PromptTooLong, match="The context policy is stop"):
        next(iter(session.reply(full)))
