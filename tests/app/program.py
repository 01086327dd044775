"""The chat as a program, on the scripted engine of the tests: python -m tests.app.program [--continue]
[--screen-reader].
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from medusa_chat.app import run_app
from medusa_chat.app.linear import run_linear
from medusa_chat.bench.terminal import Terminal
from medusa_chat.records import LoadRequest
from medusa_chat.settings import load_settings

ROOT = Path(__file__).parent.parent.parent
WORKER = (sys.executable, str(ROOT / "tests" / "scripted_worker.py"))


def open_program(*options: str, columns: int = 100, rows: int = 30, **environment: str) -> Terminal:
    """Runs it in a pseudo-terminal."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = (sys.executable, "-m", "tests.app.program", *options)
    return Terminal(command, {"PYTHONPATH": path, **environment}, columns, rows)


def watch_until(terminal: Terminal, condition: Callable[[], object], seconds: float = 30) -> None:
    """Reads what is drawn until it has come to it."""
    for _ in range(round(seconds / 0.1)):
        if condition():
            return
        terminal.watch(0.1)
    raise AssertionError(terminal.text[-500:])


if __name__ == "__main__":
    run = run_linear if "--screen-reader" in sys.argv else run_app
    sys.exit(run(load_settings(), LoadRequest("scripted"), "--continue" in sys.argv, engine_command=WORKER))
