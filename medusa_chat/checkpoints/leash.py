"""Runs a Python module that must not outlive its parent.

`python -P -m medusa_chat.checkpoints.leash MODULE ARGUMENT…` is `python -m MODULE ARGUMENT…`, but ends as
soon as its standard input closes: a pull that is killed leaves no download running behind it.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True, slots=True)
class Ended:
    """How a module ended: its exit status and all it wrote."""

    status: int
    output: str


def run_module(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path, look: Callable[[], None]
) -> Ended:
    """Runs a module to its end, calling `look` several times a second.

    Its output goes to the file `log`. Any exception, KeyboardInterrupt included, ends the module first.
    """
    # -P: a file in the user's current folder must not pass for a module of the library.
    command = [sys.executable, "-P", "-m", "medusa_chat.checkpoints.leash", *arguments]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        ) as process,
    ):
        try:
            while True:
                try:
                    status = process.wait(_SECONDS_BETWEEN_LOOKS)
                    break
                except subprocess.TimeoutExpired:
                    look()
        except BaseException:
            process.kill()
            raise
    return Ended(status, log.read_text(encoding="utf-8", errors="replace"))


def _end_with_parent() -> None:
    # Not sys.stdin: a thread that waits holding its lock aborts the interpreter's own end.
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
