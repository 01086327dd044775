"""Where copies of quantised models are kept, when they are others, and how they go."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from medusa_chat import cli
from medusa_chat.checkpoints import hub_cache, quantised
from medusa_chat.checkpoints.quantised import (
    QuantisedCopy,
    copies_dir,
    copy_of,
    make_copy,
    prune,
    read_copies,
)
from medusa_chat.errors import CheckpointError
from medusa_chat.registry import HubSource

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILLER = b"x" * 1000


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "a model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def write(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(FILLER)


def the_copy(base: Path) -> QuantisedCopy:
    return copy_of(base, "4bit", "bfloat16", "cpu")


def in_cache() -> list[str]:
    return sorted(path.name for path in copies_dir().iterdir() if path.name != ".lock")


def grow(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b" ")


def touch_later(file: Path) -> None:
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 1_000_000))


@pytest.mark.parametrize(
    "change",
    [
        lambda base: grow(base / "model.safetensors"),
        lambda base: touch_later(base / "model.safetensors"),
        lambda base: grow(base / "config.json"),
    ],
)
def test_a_base_that_has_changed_has_another_copy(base: Path, change: Callable[[Path], None]) -> None:
    before = the_copy(base).folder
    assert the_copy(base).folder == before
    change(base)
    assert the_copy(base).folder != before


def test_everything_the_bits_follow_from_is_in_the_name(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = shutil.copytree(base, tmp_path / "other", copy_function=shutil.copy2)
    copies = [
        the_copy(base),
        the_copy(other),
        copy_of(base, "8bit", "bfloat16", "cpu"),
        copy_of(base, "4bit", "float16", "cpu"),
        copy_of(base, "4bit", "bfloat16", "cuda"),
    ]
    for library in ("bitsandbytes", "transformers", "torch"):
        installed = {**quantised._installed(), library: "0.0"}
        with monkeypatch.context() as patch:
            patch.setattr(quantised, "_installed", lambda installed=installed: installed)
            copies.append(the_copy(base))
    assert len({copy.folder for copy in copies}) == len(copies)
    assert the_copy(base).folder.name.startswith("a-model-4bit-")


def test_a_snapshot_of_the_hub_is_known_by_its_commit_wherever_it_lies(tmp_path: Path) -> None:
    source = HubSource(repo="me/mine", revision=COMMIT)
    snapshot = hub_cache.snapshot_dir(source)
    assert snapshot is not None
    elsewhere = tmp_path / "cache" / "models--me--mine" / "snapshots" / COMMIT
    assert the_copy(snapshot).folder == the_copy(elsewhere).folder
    assert the_copy(snapshot).folder != the_copy(elsewhere.with_name("f" * 40)).folder
    assert the_copy(snapshot).about["model"] == "me/mine"


def test_a_copy_tells_what_it_is(base: Path) -> None:
    assert make_copy(the_copy(base), len(FILLER), write) is None
    (copy,) = read_copies()
    assert copy == the_copy(base)
    assert (copy.about["model"], copy.about["quantization"]) == ("a model", "4bit")
    assert copy.about["versions"].keys() == {"bitsandbytes", "transformers", "torch"}
    assert copy.num_bytes > len(FILLER)
    assert not copy.is_stale


def test_a_failed_save_says_why_and_leaves_nothing(base: Path) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise ValueError("contradictory\nand more")

    assert make_copy(the_copy(base), 0, fail) == "contradictory"
    assert in_cache() == []


def test_a_cache_that_can_not_be_written_is_said(base: Path, home: Path) -> None:
    home.mkdir()
    (home / "cache").write_text("a file where the folder should be")
    assert make_copy(the_copy(base), 0, write) == "Not a directory"


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
def test_a_killed_save_leaves_no_copy_and_the_next_one_cleans_up(base: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from medusa_chat.checkpoints.quantised import copy_of, make_copy\n"
        "copy = copy_of(Path(sys.argv[1]), '8bit', 'float32', 'cpu')\n"
        "make_copy(copy, 0, lambda folder: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(base)], check=False)
    assert ended.returncode == -9
    assert [name.endswith(".partial") for name in in_cache()] == [True]
    assert read_copies() == []
    assert make_copy(the_copy(base), 0, write) is None
    assert in_cache() == [the_copy(base).folder.name]


def test_another_process_that_is_saving_is_left_alone(base: Path) -> None:
    copies_dir().mkdir(parents=True)
    with FileLock(copies_dir() / ".lock"):
        assert make_copy(the_copy(base), 0, write) is None
        assert in_cache() == []
        with pytest.raises(CheckpointError, match="try again when it is done"):
            prune()


def test_a_copy_that_is_there_is_not_made_twice(base: Path) -> None:
    make_copy(the_copy(base), 0, write)
    assert make_copy(the_copy(base), 0, lambda folder: pytest.fail("saved")) is None


def test_stale_copies_make_room_and_only_then(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = shutil.copytree(base, tmp_path / "gone")
    make_copy(the_copy(gone), 0, write)
    used = copy_of(base, "8bit", "bfloat16", "cpu")
    make_copy(used, 0, write)
    shutil.rmtree(gone)
    usage = namedtuple("usage", "free")
    free = 10**9 + 5000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(free - quantised.bytes_kept()))
    one = sum(file.stat().st_size for file in used.folder.iterdir())

    assert make_copy(the_copy(base), 5000 - 2 * one, write) is None
    assert len(read_copies()) == 3
    shutil.rmtree(the_copy(base).folder)
    assert make_copy(the_copy(base), 5000 - one - 200, write) is None
    assert {copy.folder for copy in read_copies()} == {used.folder, the_copy(base).folder}
    shutil.rmtree(the_copy(base).folder)
    assert "GB free" in (make_copy(the_copy(base), 5001, write) or "")
    assert [copy.folder for copy in read_copies()] == [used.folder]


def test_prune_tells_what_it_removes(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            cli.main(arguments)
        assert exit_.value.code == 0
        return capsys.readouterr().out

    assert run("models", "--prune") == "No quantised copies were kept.\n"
    make_copy(the_copy(base), 0, write)
    (copies_dir() / ".other.partial").mkdir()
    (copies_dir() / ".other.partial" / "half").write_bytes(FILLER)
    kept = quantised.bytes_kept()
    report = json.loads(run("models", "--prune", "--json"))
    assert report["bytes_freed"] == kept > 2 * len(FILLER)
    assert [(c["model"], c["quantization"], c["dtype"]) for c in report["removed"]] == [
        ("a model", "4bit", "bfloat16")
    ]
    assert in_cache() == []
    make_copy(the_copy(base), 0, write)
    lines = run("models", "--prune").splitlines()
    assert lines[0].startswith("a model 4bit bfloat16: 1.")
    assert lines[1].endswith(" kB freed.")
