"""The engine's child process, driven as the app drives it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from medusa_chat.engine.process import EngineProcess
from medusa_chat.errors import EngineCrashed, ModelNotFound, OutOfMemory, PromptTooLong
from medusa_chat.records import (
    Chunk,
    EngineInfo,
    LoadProgress,
    LoadRequest,
    Message,
    ReplyStarted,
    SamplingOptions,
)

WORKER = (sys.executable, str(Path(__file__).parent.parent / "scripted_worker.py"))
OPTIONS = SamplingOptions()


@pytest.fixture
async def engine() -> AsyncIterator[EngineProcess]:
    process = EngineProcess(command=WORKER)
    yield process
    await process.close()


async def _load(engine: EngineProcess, model: str = "m") -> list[LoadProgress | EngineInfo]:
    return [item async for item in engine.load(LoadRequest(model))]


def _ask(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


async def test_load_reports_progress_then_what_is_loaded(engine: EngineProcess) -> None:
    *progress, info = await _load(engine)
    assert [item.fraction for item in progress if isinstance(item, LoadProgress)] == [0.0, 0.25, 0.5, 0.75]
    assert isinstance(info, EngineInfo)
    assert info.step_seconds[1] == 0.020  # keys survive JSON as numbers


async def test_failed_load_raises_the_class_the_child_raised_and_can_be_retried(
    engine: EngineProcess,
) -> None:
    with pytest.raises(OutOfMemory, match="needs 99 GB"):
        [item async for item in engine.load(LoadRequest("m", quantization="8bit"))]
    assert isinstance((await _load(engine))[-1], EngineInfo)


async def test_reply_starts_streams_and_ends(engine: EngineProcess) -> None:
    await _load(engine)
    started, *chunks = [item async for item in engine.reply(_ask("roles"), OPTIONS)]
    assert isinstance(started, ReplyStarted)
    assert "".join(chunk.text for chunk in chunks if isinstance(chunk, Chunk)) == "roles: user=roles"
    assert isinstance(chunks[-1], Chunk)
    assert chunks[-1].finish_reason == "eos"


async def test_refused_reply_leaves_the_engine_usable(engine: EngineProcess) -> None:
    await _load(engine)
    with pytest.raises(PromptTooLong):
        [item async for item in engine.reply(_ask("toolong"), OPTIONS)]
    assert len([item async for item in engine.reply(_ask("roles"), OPTIONS)]) > 1


async def test_what_is_left_when_memory_runs_out_is_told_before_the_error(engine: EngineProcess) -> None:
    await _load(engine)
    items = engine.reply(_ask("no-memory"), OPTIONS)
    assert isinstance(await anext(items), ReplyStarted)
    assert isinstance(await anext(items), Chunk)
    info = await anext(items)
    assert isinstance(info, EngineInfo)
    assert info.context_length == 1024
    with pytest.raises(OutOfMemory, match=r"The context is 1,024 tokens"):
        await anext(items)
    assert len([item async for item in engine.reply(_ask("roles"), OPTIONS)]) > 1


async def test_cancel_ends_the_reply_and_the_next_one_is_whole(engine: EngineProcess) -> None:
    await _load(engine)
    last = None
    async for item in engine.reply(_ask("endless"), OPTIONS):
        last = item
        if isinstance(item, Chunk) and item.text.startswith("word3"):
            engine.cancel()
    assert isinstance(last, Chunk)
    assert last.finish_reason == "cancelled"
    chunks = [item async for item in engine.reply(_ask("roles"), OPTIONS) if isinstance(item, Chunk)]
    assert chunks[-1].finish_reason == "eos"


async def test_options_change_in_mid_reply(engine: EngineProcess) -> None:
    await _load(engine)
    texts = []
    async for item in engine.reply(_ask("temperature"), SamplingOptions(temperature=0.2)):
        if isinstance(item, Chunk):
            texts.append(item.text)
            if len(texts) == 3:
                engine.set_options(SamplingOptions(temperature=0.9))
            if "T=0.9" in item.text:
                engine.cancel()
    assert texts[0] == "T=0.2 D=1 "
    assert "T=0.9 D=1 " in texts


async def test_crash_gives_its_reason_and_the_next_load_starts_afresh(engine: EngineProcess) -> None:
    await _load(engine)
    items: list[ReplyStarted | Chunk] = []
    with pytest.raises(EngineCrashed) as caught:
        await _collect(engine, "crash", items)
    assert [item.text for item in items if isinstance(item, Chunk)] == ["These words arrived. "]
    assert str(caught.value) == (
        "The engine ended with status 3. Its last words: scripted: the device fell off the bus"
    )
    assert isinstance((await _load(engine))[-1], EngineInfo)


async def test_unforeseen_error_ends_the_engine_with_its_first_line(engine: EngineProcess) -> None:
    await _load(engine)
    with pytest.raises(EngineCrashed) as caught:
        await _collect(engine, "bug", [])
    assert str(caught.value) == (
        "The engine ended with status 1. Its last words: RuntimeError: the shapes don't match"
    )


async def test_file_named_like_a_module_of_the_library_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('not the real json')")
    monkeypatch.chdir(tmp_path)
    process = EngineProcess()
    try:
        with pytest.raises(ModelNotFound):
            [item async for item in process.load(LoadRequest("no-such-model"))]
    finally:
        await process.close()


async def test_killed_engine_says_so(engine: EngineProcess) -> None:
    await _load(engine)
    assert engine._process is not None
    engine._process.kill()
    with pytest.raises(EngineCrashed, match="SIGKILL, perhaps for want of memory"):
        [item async for item in engine.reply(_ask("roles"), OPTIONS)]


async def test_a_crash_can_be_waited_for(engine: EngineProcess) -> None:
    await _load(engine)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine.crash(), 0.2)
    assert engine._process is not None
    engine._process.kill()
    assert "SIGKILL" in str(await engine.crash())


async def test_reply_without_a_model() -> None:
    with pytest.raises(EngineCrashed, match="not running"):
        [item async for item in EngineProcess(command=WORKER).reply(_ask("roles"), OPTIONS)]


async def test_close_ends_the_child_in_mid_reply() -> None:
    engine = EngineProcess(command=WORKER)
    await _load(engine)
    assert engine._process is not None
    pid = engine._process.pid
    await _first_chunk(engine)
    await engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def _collect(engine: EngineProcess, text: str, into: list[ReplyStarted | Chunk]) -> None:
    async for item in engine.reply(_ask(text), OPTIONS):
        into.append(item)  # noqa: PERF401 - what came before a crash must be kept


async def _first_chunk(engine: EngineProcess) -> None:
    async for item in engine.reply(_ask("endless"), OPTIONS):
        if isinstance(item, Chunk):
            return
