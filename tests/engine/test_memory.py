"""A load's memory from end to end on a tiny model: planned, kept to, told, and run out of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from medusa_chat import load, paths
from medusa_chat.cli import main
from medusa_chat.engine import memory as engine_memory
from medusa_chat.engine import session as session_module
from medusa_chat.engine.memory import plan_load
from medusa_chat.engine.opening import fetch
from medusa_chat.engine.session import Session, open_session
from medusa_chat.errors import OutOfMemory
from medusa_chat.last_load import last_load_file, read_last_load
from medusa_chat.machine import Memory
from medusa_chat.memory_plan import STARTED, MemoryPlan, plan_memory
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.cache import KVCache
from medusa_chat.model.path_heads import PathHeads
from medusa_chat.records import Chunk, LoadRequest, Message, SamplingOptions
from tests.tiny import tiny_llama
from tests.training.chatty import tiny_tokenizer

OWN_CONTEXT = 2048


@pytest.fixture
def request_(tmp_path: Path) -> LoadRequest:
    tiny_llama(context=OWN_CONTEXT).causal_lm.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    PathHeads.fresh(2, 1, 32, 32, vocabulary=torch.arange(0, 64, 2)).save(tmp_path / "heads")
    return LoadRequest(str(tmp_path / "model"), str(tmp_path / "heads"), "none", "cpu", "float32")


def planned(request: LoadRequest) -> MemoryPlan:
    plan = plan_load(request, fetch(request, lambda progress: None))
    assert plan is not None
    return plan


def leave_room_for(context_length: int, request: LoadRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the machine had just enough memory free for a context of this length."""
    sources = fetch(request, lambda progress: None)
    assert sources.heads is not None
    model, heads = engine_memory._model_sizes(sources.folder), engine_memory._head_sizes(sources.heads)
    memory = Memory("cpu", "this machine", 2**40, 2**40, 4)
    needed = plan_memory(model, heads, "none", memory, context_length).peak
    small = Memory("cpu", "this machine", 2**40, round(needed / 0.97) + 1, 4)
    monkeypatch.setattr(engine_memory, "memory_of", lambda device, dtype: small)


def reply(session: Session, messages: list[Message], **options: Any) -> list[Chunk]:
    session.options = SamplingOptions(temperature=0.0, **options)
    return [item for item in session.reply(messages) if isinstance(item, Chunk)]


def ids(chunks: list[Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.ids]


def test_the_model_s_own_context_is_planned_where_it_fits(request_: LoadRequest) -> None:
    plan = planned(request_)
    session = open_session(request_, lambda progress: None)
    assert (session.info.context_length, plan.context_length) == (OWN_CONTEXT, OWN_CONTEXT)
    assert session.info.remarks == ()
    taken = session._parts_taken()
    assert plan.weights + plan.heads == pytest.approx(taken["weights"] + taken["heads"], rel=0.15)


def test_a_shorter_context_is_chosen_to_fit_and_told(
    request_: LoadRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_room_for(1280, request_, monkeypatch)
    session = open_session(request_, lambda progress: None)
    assert session.info.context_length == 1280
    assert session.info.remarks[0].startswith("The context is 1,280 tokens of the model's 2,048: ")
    long = [Message("user", "why " * 500), Message("assistant", "so"), Message("user", "why " * 500)]
    started = next(iter(session.reply(long)))
    assert started.num_dropped == 2  # type: ignore[union-attr]
    chunks = reply(session, [Message("user", "why " * 900)], max_tokens=2000)
    assert chunks[-1].step.context_tokens <= 1280


def test_a_context_that_is_asked_for_needs_no_telling(request_: LoadRequest, tmp_path: Path) -> None:
    session = load(request_.model, request_.heads, quant="none", device="cpu", context_length=512)
    assert (session.info.context_length, session.info.remarks) == (512, ())
    adopted = load(session_model(tmp_path), tokenizer=tiny_tokenizer(), context_length=512)
    assert adopted.info.context_length == 512


def session_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)


def test_too_little_memory_is_told_before_anything_is_loaded(
    request_: LoadRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "open_model", lambda *_: pytest.fail("began to load"))
    leave_room_for(512, request_, monkeypatch)
    with pytest.raises(
        OutOfMemory,
        match=r"with 1,024 tokens of context, and .* are free\. Try --kv-cache 8bit or --context 512\.$",
    ):
        open_session(request_, lambda progress: None)


def test_heads_are_counted_as_their_file_s_header_tells(tmp_path: Path) -> None:
    BlockHeads.fresh(3, 2, 64).save(tmp_path / "shared")
    shared = engine_memory._head_sizes(tmp_path / "shared")
    assert (shared.layers, shared.lm_heads, shared.vocabulary) == (3 * 2 * 64 * 65, 0, 0)
    own = BlockHeads(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 1, 64), torch.zeros(3, 100, 64))
    own.save(tmp_path / "own")
    assert engine_memory._head_sizes(tmp_path / "own").lm_heads == 3 * 100 * 64
    PathHeads.fresh(2, 1, 32, 64, vocabulary=torch.arange(20)).save(tmp_path / "path")
    path = engine_memory._head_sizes(tmp_path / "path")
    assert (path.layers, path.vocabulary, path.kind) == (64 * 128 + 64 * 32 + 2 * 64, 20, "path")


def test_what_was_planned_and_taken_is_kept_for_doctor(
    request_: LoadRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_last_load() is None
    session = open_session(request_, lambda progress: None)
    kept = read_last_load()
    assert kept is not None
    assert (kept.context_length, kept.device) == (OWN_CONTEXT, session.info.device_name)
    assert kept.planned == {
        **{part: getattr(planned(request_), part) for part in ("weights", "heads", "cache", "workspace")},
        "program": STARTED["cpu"],
        "loading": planned(request_).loading,
        "total": planned(request_).total,
    }
    assert kept.taken["weights"] + kept.taken["heads"] + kept.taken["cache"] == session.info.memory_bytes
    assert kept.taken["total"] > 100e6  # this process
    with pytest.raises(SystemExit):
        main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)["last_load"]
    assert set(kept.seconds) == {"reading", "packing", "kernels", "measuring"}
    assert told["reading_seconds"] == kept.seconds["reading"] > 0
    assert told["cache"] == {"taken_bytes": kept.taken["cache"], "planned_bytes": kept.planned["cache"]}
    with pytest.raises(SystemExit):
        main(["doctor"])
    out = capsys.readouterr().out.partition("last load:")[2]
    assert "  workspace " in out
    assert f"  measuring seconds  {kept.seconds['measuring']:.1f}\n" in out


def test_a_damaged_record_or_none_harms_nobody(
    request_: LoadRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["doctor"])
    assert capsys.readouterr().out.endswith("last load: none\n")
    last_load_file().parent.mkdir(parents=True, exist_ok=True)
    last_load_file().write_text('{"model": 3}')
    assert read_last_load() is None
    last_load_file().unlink()
    last_load_file().parent.rmdir()
    paths.cache_dir().write_text("a file where the folder should be")
    assert open_session(request_, lambda progress: None).info.num_heads == 2


class OutAt:
    """A cache for which memory runs out at so many rows, once or for good."""

    def __init__(self, num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
        reserve = KVCache._reserve

        def faulty(cache: KVCache, rows: int, *shape: Any) -> torch.Tensor:
            if rows > num_rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            return reserve(cache, rows, *shape)

        monkeypatch.setattr(KVCache, "_reserve", faulty)


def test_when_memory_runs_out_in_a_reply_what_fits_is_kept_and_the_next_one_works(
    request_: LoadRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(request_, lambda progress: None)
    OutAt(1400, monkeypatch)
    session.options = SamplingOptions(temperature=0.8, seed=1, max_tokens=500)
    question = [Message("user", "why " * 1300)]
    said: list[Chunk] = []
    with pytest.raises(
        OutOfMemory, match=r"Memory ran out at 1,(3\d\d|400) tokens.*The context is 1,280 tokens"
    ):
        said.extend(item for item in session.reply(question) if isinstance(item, Chunk))
    assert len(ids(said)) > 20  # came before, and stays with whoever asked
    assert session.info.context_length == 1280
    assert len(session._context.ids) == session._context.cache.length == 1280
    short = [Message("user", "why is it ?")]
    fresh = open_session(request_, lambda progress: None)
    assert ids(reply(session, short, max_tokens=20)) == ids(reply(fresh, short, max_tokens=20))
    # As far as it goes now, and not further.
    long = [*question, Message("assistant", "so"), Message("user", "why " * 800)]
    assert reply(session, long, max_tokens=3000)[-1].finish_reason in ("context", "eos")


def test_when_memory_runs_out_in_a_prompt_its_rows_are_forgotten(
    request_: LoadRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(request_, lambda progress: None)
    first = [Message("user", "why is it ?")]
    reply(session, first, max_tokens=5)
    OutAt(1100, monkeypatch)
    session.options = SamplingOptions(temperature=0.0)
    with pytest.raises(OutOfMemory, match="Memory ran out at 1,0"):
        list(session.reply([*first, Message("assistant", "so"), Message("user", "why " * 1300)]))
    assert len(session._context.ids) == session._context.cache.length < 100
    assert reply(session, first, max_tokens=5)


def test_a_context_too_short_to_be_of_use_is_begun_anew(
    request_: LoadRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(request_, lambda progress: None)
    with monkeypatch.context() as patch:
        OutAt(600, patch)
        with pytest.raises(OutOfMemory, match="Start a new conversation"):
            reply(session, [Message("user", "why " * 900)])
    assert (session.info.context_length, session._context.ids) == (OWN_CONTEXT, [])
    assert reply(session, [Message("user", "why is it ?")], max_tokens=5)
