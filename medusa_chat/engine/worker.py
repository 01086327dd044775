"""The child's side of engine/process.py: reads requests, drives a session, writes events.

Run as `python -m medusa_chat.engine.worker`. A thread reads standard input, so that options and cancel
take effect between two steps of a reply under way.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Protocol

from medusa_chat.engine import wire
from medusa_chat.errors import MedusaError
from medusa_chat.records import (
    Chunk,
    EngineInfo,
    LoadProgress,
    LoadRequest,
    Message,
    ReplyStarted,
    SamplingOptions,
)


class ServableSession(Protocol):
    """The part of engine.session.Session that a worker drives."""

    options: SamplingOptions
    cancelled: bool

    @property
    def info(self) -> EngineInfo: ...

    def reply(self, messages: Sequence[Message]) -> Iterator[ReplyStarted | Chunk]: ...

    def close(self) -> None: ...


Opener = Callable[[LoadRequest, Callable[[LoadProgress], None]], ServableSession]


class Worker:
    """Serves one session at a time over a pair of binary streams."""

    def __init__(self, open_session: Opener, requests: BinaryIO, events: BinaryIO) -> None:
        self._open_session = open_session
        self._requests = requests
        self._events = events
        self._queue: queue.SimpleQueue[wire.Load | wire.Reply | None] = queue.SimpleQueue()
        self._session: ServableSession | None = None

    def run(self) -> None:
        """Serves until standard input ends."""
        threading.Thread(target=self._read_requests, daemon=True).start()
        while (request := self._queue.get()) is not None:
            try:
                match request:
                    case wire.Load(load):
                        self._load(load)
                    case wire.Reply(messages, options):
                        self._reply(messages, options)
            except MedusaError as error:
                self._send(wire.Failed(type(error).__name__, str(error)))

    def _read_requests(self) -> None:
        for line in self._requests:
            request = wire.decode_request(line)
            match request:
                case wire.SetOptions(options):
                    if self._session is not None:
                        self._session.options = options
                case wire.Cancel():
                    self._set_cancelled(True)
                case _:
                    # Lowered here, not when the reply starts: a cancel may be read before that.
                    self._set_cancelled(False)
                    self._queue.put(request)
        # The parent is gone or wants the end: a reply under way must not outlive it.
        self._queue.put(None)
        self._set_cancelled(True)

    def _set_cancelled(self, cancelled: bool) -> None:
        if self._session is not None:
            self._session.cancelled = cancelled

    def _load(self, request: LoadRequest) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        self._session = self._open_session(request, lambda progress: self._send(wire.Progressed(progress)))
        self._send(wire.Loaded(self._session.info))

    def _reply(self, messages: Sequence[Message], options: SamplingOptions) -> None:
        if self._session is None:
            raise MedusaError("No model is loaded.")
        self._session.options = options
        for item in self._session.reply(messages):
            self._send(wire.Started(item) if isinstance(item, ReplyStarted) else wire.Chunked(item))
        self._send(wire.Finished())

    def _send(self, event: wire.Event) -> None:
        self._events.write(wire.encode_event(event))
        self._events.flush()


def serve(open_session: Opener) -> None:
    """Serves over this process's standard streams."""
    # Libraries print to standard output; the events go over a copy of it that only we hold.
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    Worker(open_session, sys.stdin.buffer, events).run()


def main() -> None:
    from medusa_chat.engine.session import open_session

    serve(open_session)


if __name__ == "__main__":
    main()
