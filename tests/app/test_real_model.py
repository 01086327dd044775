"""The chat as a program on the real default model, in its real engine: loaded once for all that is asked."""

from __future__ import annotations

import os
import re
import sys

import pytest

from medusa_chat.bench.terminal import Terminal
from medusa_chat.history import History
from tests.app.program import watch_until

_SECONDS = 120
_STOPPED = re.compile(r"■ stopped · \d+ tokens · [\d.]+ tokens/s · ([\d.]+) per step · ×[\d.]+")


def _stored() -> list[str]:
    history = History()
    record = history.latest()
    messages = history.messages(record.id) if record else ()
    history.close()
    return [message.content for message in messages]


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_the_real_model_chats(default_model_here: str) -> None:
    # Left to chance, the reply may be long; and the tree have one node, where the machine is busy at load.
    sampling = {"MEDUSA_CHAT_SAMPLING__TEMPERATURE": "0", "MEDUSA_CHAT_SAMPLING__TREE_SIZE": "8"}
    command = (sys.executable, "-m", "medusa_chat.cli", "--device", "cpu", "--dtype", "float32")
    with Terminal(command, sampling) as terminal:
        terminal.wait_for("Ask something", _SECONDS)
        terminal.press("What is the capital of France?\r")  # waits for the model
        terminal.wait_for("per step · ×", _SECONDS)  # the caption of a finished reply that was drafted
        watch_until(terminal, lambda: _stored()[1:] == ["The capital of France is Paris."])
        terminal.press("Tell me a long story about a lighthouse.\r")
        watch_until(terminal, lambda: len(_stored()) == 4 and len(_stored()[3]) > 40, _SECONDS)
        terminal.press("\x1b")
        watch_until(terminal, lambda: _STOPPED.search(terminal.text.decode(errors="replace")), _SECONDS)
        caption = _STOPPED.search(terminal.text.decode(errors="replace"))
        assert caption
        assert float(caption[1]) > 1
        terminal.press("/quit\r")
        assert terminal.wait(_SECONDS) == 0
