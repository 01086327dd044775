"""Standard streams that are closed, full or read no further: nothing is lost, and one sentence at most."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medusa_chat import cli
from medusa_chat.commands import history as history_commands

PROGRAM = f"{sys.executable} -m medusa_chat.cli"

posix = pytest.mark.skipif(os.name == "nt", reason="redirects with a POSIX shell")


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=120)


@posix
def test_a_closed_standard_input_is_an_empty_one() -> None:
    done = shell(f"{PROGRAM} say <&-")
    assert (done.returncode, done.stderr) == (2, "The prompt is empty: write something to answer.\n")


@posix
def test_a_closed_standard_error_fails_no_command(tmp_path: Path) -> None:
    assert shell(f"{PROGRAM} bench --prompts {tmp_path / 'none.jsonl'} 2>&-").returncode == 2  # as it is told


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_behind_standard_output_is_told() -> None:
    done = shell(f"{PROGRAM} history list >/dev/full")
    assert done.returncode == 1
    assert (
        done.stderr == "There is no room left on the disk that this was written to: free some, then run it "
        "again.\n"
    )


def test_a_full_disk_is_told_with_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/file")

    monkeypatch.setattr(history_commands, "_read", fail)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["history", "show", "1"])
    assert exit_.value.code == 1
    assert capsys.readouterr().err == (
        "There is no room left on the disk of /full/file: free some, then run it again.\n"
    )
