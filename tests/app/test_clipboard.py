"""Copying says no more than what is known: the real pyperclip on programs that take, lose or fail."""

from __future__ import annotations

import os
from pathlib import Path

import pyperclip
import pytest

from medusa_chat import paths
from medusa_chat.app.clipboard import copy

TAKES = {"wl-copy": 'cat > "$CLIPBOARD"', "wl-paste": 'cat "$CLIPBOARD"; echo'}
LOSES = {"wl-copy": "cat > /dev/null", "wl-paste": "echo of earlier"}
FAILS = {"wl-copy": "exit 1", "wl-paste": "exit 1"}
pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-ins are shell scripts")


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the terminal was handed. No clipboard is on this machine until a test puts one there."""
    for name in ("SSH_CONNECTION", "SSH_TTY", "SSH_CLIENT", "DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.setenv("CLIPBOARD", str(tmp_path / "clipboard"))
    return []


def have(programs: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder / "bin"
    folder.mkdir()
    for name, does in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    # pyperclip looks once for what there is.
    for verb, function in zip(("copy", "paste"), pyperclip.determine_clipboard(), strict=True):
        monkeypatch.setattr(pyperclip, verb, function)


async def test_a_clipboard_that_holds_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list[str]
) -> None:
    have(TAKES, tmp_path, monkeypatch)
    assert await copy("naïve\n`code`\n", "the message", sent.append) == "Copied the message, 13 characters"
    assert (tmp_path / "clipboard").read_text() == "naïve\n`code`\n"
    assert not sent


@pytest.mark.parametrize("programs", [LOSES, FAILS, {}])
async def test_one_that_does_not_is_not_called_copied(
    programs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list[str]
) -> None:
    have(programs, tmp_path, monkeypatch)
    sentence = await copy("text", "block 1", sent.append)
    file = paths.data_dir() / "copied.md"
    assert sentence == f"Sent block 1 to the terminal, which may not take it; it is also in {file}"
    assert sent == ["text"]
    assert file.read_text() == "text"


async def test_over_ssh_the_other_machines_clipboard_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list[str]
) -> None:
    have(TAKES, tmp_path, monkeypatch)
    monkeypatch.setenv("SSH_TTY", "/dev/pts/1")
    assert "may not take it" in await copy("text", "the message", sent.append)
    assert not (tmp_path / "clipboard").exists()


async def test_without_a_folder_to_write_to_the_file_is_not_claimed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list[str]
) -> None:
    have(FAILS, tmp_path, monkeypatch)
    home.write_text("a file in place of the folder")
    assert (
        await copy("text", "the message", sent.append)
        == "Sent the message to the terminal, which may not take it"
    )
