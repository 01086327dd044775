"""A Session in a child process, behind the same verbs: load, reply, options, cancel, close.

Its own process, because a thread beside the UI loop would slow the engine by a quarter and falsify the
speed-up; and because the UI survives a crash of it. Imports no torch: the app stands on this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from medusa_chat import errors
from medusa_chat.engine import wire
from medusa_chat.errors import EngineCrashed, MedusaError
from medusa_chat.records import (
    Chunk,
    EngineInfo,
    LoadProgress,
    LoadRequest,
    Message,
    ReplyStarted,
    SamplingOptions,
)

# -P: a file in the user's current folder must not pass for a module of the library.
WORKER_COMMAND = (sys.executable, "-P", "-m", "medusa_chat.engine.worker")
# The UI draws while the engine decodes: threads that wait for one another by spinning, as GNU OpenMP's do
# for milliseconds, then hold up the very thread they wait for. A plain step on 2 cores, quiet and beside a
# busy program: by default 46 and about 1000 ms, with 10000 spins 46 and 209, with 1000 spins 68 and 115.
_WORKER_ENVIRONMENT = {"GOMP_SPINCOUNT": "10000"}
_MAX_LINE_BYTES = 16 * 2**20
_SECONDS_TO_END = 3.0


class Engine(Protocol):
    """What the app needs of an engine."""

    def load(self, request: LoadRequest) -> AsyncIterator[LoadProgress | EngineInfo]: ...

    def reply(
        self, messages: Sequence[Message], options: SamplingOptions
    ) -> AsyncIterator[ReplyStarted | Chunk | EngineInfo]: ...

    def set_options(self, options: SamplingOptions) -> None: ...

    def cancel(self) -> None: ...

    async def crash(self) -> EngineCrashed: ...

    async def close(self) -> None: ...


class EngineProcess:
    """Starts the child at the first load, and again after a crash. One load or reply at a time."""

    def __init__(self, command: Sequence[str] = WORKER_COMMAND) -> None:
        self._command = tuple(command)
        self._process: asyncio.subprocess.Process | None = None
        self._stderr_tail: deque[str] = deque(maxlen=20)
        self._stderr_reader: asyncio.Task[None] | None = None

    async def load(self, request: LoadRequest) -> AsyncIterator[LoadProgress | EngineInfo]:
        """Yields LoadProgress…, then the EngineInfo. Starts the child if none is alive.

        Raises the MedusaError the child raised, or EngineCrashed.
        """
        if self._process is None or self._process.returncode is not None:
            await self._start()
        self._send(wire.Load(request))
        async for event in self._events():
            match event:
                case wire.Progressed(progress):
                    yield progress
                case wire.Loaded(info):
                    yield info
                    return

    async def reply(
        self, messages: Sequence[Message], options: SamplingOptions
    ) -> AsyncIterator[ReplyStarted | Chunk | EngineInfo]:
        """Yields ReplyStarted, then Chunks; the last one carries a finish_reason. Where memory runs out, an
        EngineInfo says what there is room for from now on.

        Raises the MedusaError the child raised, or EngineCrashed.
        """
        self._send(wire.Reply(tuple(messages), options))
        async for event in self._events():
            match event:
                case wire.Started(started):
                    yield started
                case wire.Chunked(chunk):
                    yield chunk
                case wire.Loaded(info):
                    yield info
                case wire.Finished():
                    return

    def set_options(self, options: SamplingOptions) -> None:
        """The reply under way uses these from its next step on."""
        self._send(wire.SetOptions(options))

    def cancel(self) -> None:
        """Ends the reply under way after the step it is in; what it has stays."""
        self._send(wire.Cancel())

    async def crash(self) -> EngineCrashed:
        """Waits for the child to end without being asked to, and tells how it did."""
        process = self._process
        if process is None:
            return EngineCrashed("The engine is not running. Load a model first.")
        await process.wait()
        if self._stderr_reader is not None:
            await asyncio.wait({self._stderr_reader})  # which goes on if nobody waits here any more
        return EngineCrashed(self._crash_reason(process.returncode))

    async def close(self) -> None:
        """Ends the child: politely by closing its input, then by force."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), _SECONDS_TO_END)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._stderr_reader is not None:
            await self._stderr_reader

    async def _start(self) -> None:
        self._stderr_tail.clear()
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_MAX_LINE_BYTES,
            env={**_WORKER_ENVIRONMENT, **os.environ},
            # Its own group: Ctrl+C in the terminal is the UI's to handle.
            process_group=0 if os.name == "posix" else None,
        )
        self._stderr_reader = asyncio.create_task(self._keep_stderr(self._process))

    async def _keep_stderr(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            self._stderr_tail.append(line.decode(errors="replace").rstrip())

    def _send(self, request: wire.Request) -> None:
        if self._process is None or self._process.stdin is None or self._process.stdin.is_closing():
            return  # the reader of events reports a dead child, once
        self._process.stdin.write(wire.encode_request(request))

    async def _events(self) -> AsyncIterator[wire.Event]:
        process = self._process
        if process is None:
            raise await self.crash()
        assert process.stdout is not None
        # Each line wakes us, often on the engine's processor: in 150 tokens it was displaced 71 times, but 3
        # times with the pipe paused for 0.1 s between reads. Yet on a busy machine some never resumed.
        while line := await process.stdout.readline():
            event = wire.decode_event(line)
            if isinstance(event, wire.Failed):
                raise _error_named(event.error)(event.message)
            yield event
        raise await self.crash()

    def _crash_reason(self, status: int | None) -> str:
        last_words = next((line for line in reversed(self._stderr_tail) if line.strip()), "")
        if status is not None and status < 0:
            cause = f"was ended by {signal.Signals(-status).name}"
            if status == -signal.SIGKILL:
                cause += ", perhaps for want of memory"
        else:
            cause = f"ended with status {status}"
        return f"The engine {cause}." + (f" Its last words: {last_words}" if last_words else "")


def _error_named(name: str) -> type[MedusaError]:
    error = getattr(errors, name, MedusaError)
    return error if isinstance(error, type) and issubclass(error, MedusaError) else MedusaError
