"""The chat on the real default model, in its real engine."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medusa_chat.engine.process import WORKER_COMMAND
from medusa_chat.records import LoadRequest, SamplingOptions
from medusa_chat.settings import Settings
from tests.app.conftest import OpenChat

_SECONDS_TO_LOAD = 120
_QUESTION = "What is the capital of France?"
_ESCAPE_SEQUENCE = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|[PX^_\]].*?(\x1b\\|\x07)|[@-Z\\-_=>])", re.DOTALL)


async def test_the_real_model_chats(default_model_here: str, open_chat: OpenChat) -> None:
    request = LoadRequest(default_model_here, device="cpu", dtype="float32")
    settings = Settings(sampling=SamplingOptions(temperature=0, tree_size=8))
    async with open_chat(request=request, settings=settings, command=WORKER_COMMAND, wait=False) as chat:
        await chat.send(_QUESTION)  # waits for the model
        await chat.answered(_SECONDS_TO_LOAD)
        assert chat.replies == ["The capital of France is Paris."]
        await chat.send("Tell me a long story about a lighthouse.")
        await chat.until(lambda: len(chat.replies[1]) > 40, _SECONDS_TO_LOAD)
        await chat.press("escape")
        await chat.answered()
        caption = re.fullmatch(
            r"■ stopped · \d+ tokens · [\d.]+ tokens/s · ([\d.]+) per step · ×[\d.]+", chat.captions[1]
        )
        assert caption
        assert float(caption[1]) > 1


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_the_program_in_a_terminal(default_model_here: str, tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    # Left to chance, the reply may be long; and the tree have one node, where the machine is busy at load.
    sampling = {"MEDUSA_CHAT_SAMPLING__TEMPERATURE": "0", "MEDUSA_CHAT_SAMPLING__TREE_SIZE": "8"}
    environment = {**os.environ, **sampling, "TERM": "xterm-256color", "LINES": "30", "COLUMNS": "100"}
    command = [sys.executable, "-m", "medusa_chat.cli", "--device", "cpu"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=environment
    ) as program:
        os.close(theirs)
        try:
            _read_until(ours, b"Ask something")
            os.write(ours, _QUESTION.encode() + b"\r")
            _read_until(ours, "per step · ×".encode())  # the caption of a finished reply that was drafted
            os.write(ours, b"/quit\r")
            _read_until(ours, None)
            assert program.wait(_SECONDS_TO_LOAD) == 0
        finally:
            program.kill()
            os.close(ours)


def _read_until(terminal: int, text: bytes | None) -> None:
    """Reads what the program draws until the text is in it; None: until the program ends."""
    deadline = time.monotonic() + _SECONDS_TO_LOAD
    drawn = b""
    while text is None or text not in _ESCAPE_SEQUENCE.sub(b"", drawn):
        assert time.monotonic() < deadline, drawn[-500:]
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other end has been closed
            piece = b""
        if not piece:
            assert text is None, drawn[-500:]
            return
        drawn += piece
