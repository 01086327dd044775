"""A pull in a child process, for programs that must neither wait for it nor import what it needs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator

from medusa_chat.checkpoints.pull_lines import Failed, Progressed, Pulled, decode_line
from medusa_chat.errors import CheckpointError
from medusa_chat.records import LoadProgress

# Under the leash, so that it ends with its parent, whatever ends that. -P: see there.
_COMMAND = (
    *(sys.executable, "-P", "-m", "medusa_chat.checkpoints.leash"),
    *("medusa_chat.cli", "pull", "--json"),
)
_SECONDS_TO_CLEAN_UP = 3.0
_LINES_KEPT = 5


class PullProcess:
    """One pull, once. What it has fetched stays for the next one, however it ends."""

    def __init__(self, model: str, heads: str | None = None) -> None:
        """model: as `pull` takes it. heads: instead of the model's own."""
        self._arguments = [*([] if heads is None else ["--heads", heads]), "--", model]
        self._process: asyncio.subprocess.Process | None = None
        self._last_words: deque[str] = deque(maxlen=_LINES_KEPT)
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """It was told to end before it was done."""
        return self._is_cancelled

    async def run(self) -> AsyncIterator[LoadProgress]:
        """Ends when all is here, or when it was cancelled.

        Raises CheckpointError with the sentence that `pull` would have printed.
        """
        self._process = process = await asyncio.create_subprocess_exec(
            *_COMMAND,
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # Its own group: pip and the converter, which it starts, are in it too.
            process_group=0 if os.name == "posix" else None,
        )
        assert process.stdout is not None
        errors = asyncio.create_task(self._keep_errors(process))
        try:
            async for line in process.stdout:
                match decode_line(line):
                    case Progressed(progress):
                        yield progress
                    case Failed(_, message):
                        raise CheckpointError(message)
                    case Pulled():
                        return
            await errors
            await process.wait()
            if not self._is_cancelled:
                raise CheckpointError(self._reason(process.returncode))
        except (asyncio.CancelledError, GeneratorExit):
            self.cancel()
            raise
        finally:
            await _see_it_end(process)
            await errors

    def cancel(self) -> None:
        """Asks it to clean up and end; `run` returns soon."""
        self._is_cancelled = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)

    async def _keep_errors(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            self._last_words.append(line.decode(errors="replace").strip())

    def _reason(self, status: int | None) -> str:
        words = next((words for words in reversed(self._last_words) if words), "it gave no reason")
        return (
            f"The download ended with status {status}: {words.rstrip('.')}. Try it again: what is here stays."
        )


async def _see_it_end(process: asyncio.subprocess.Process) -> None:
    """Within a moment for what it has to clean up, and all that it has started with it."""
    try:
        await asyncio.wait_for(process.wait(), _SECONDS_TO_CLEAN_UP)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            if os.name == "posix":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        await process.wait()
