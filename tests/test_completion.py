"""What a shell is told at Tab."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medusa_chat import paths


def _complete(shell: str, line: str) -> str:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    own = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    environment = {**os.environ, **words, **own, "_MEDUSA_CHAT_COMPLETE": f"complete_{shell}"}
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "medusa_chat.cli"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in ended.stderr
    assert not {"torch", "textual", "huggingface_hub"} & set(ended.stderr.replace("|", " ").split())
    return ended.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("command", ["--model", "pull", "say --model", "inspect", "train"])
def test_names_of_models(shell: str, command: str) -> None:
    offered = _complete(shell, f"medusa-chat {command} smol")
    assert "smollm2-135m" in offered
    assert "vicuna" not in offered


def test_commands_and_options() -> None:
    assert {"bench", "history"} <= set(_complete("bash", "medusa-chat ").split())
    assert "--temperature" in _complete("bash", "medusa-chat say --te").split()


def test_registry_that_cannot_be_read_offers_nothing(home: Path) -> None:
    paths.config_dir().mkdir(parents=True)
    (paths.config_dir() / "models.toml").write_text("[broken")
    assert _complete("bash", "medusa-chat --model smol").strip() == ""


def test_installs_for_bash(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-m", "medusa_chat.cli", "--install-completion", "bash"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    scripts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("_MEDUSA_CHAT_COMPLETE=complete_bash" in script for script in scripts)
