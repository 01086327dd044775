"""The child's side of engine/process.py: reads requests, drives a session, writes events.

Run as `python -m medusa_chat.engine.worker`. A thread reads standard input, so that options and cancel
take effect between two steps of a reply under way.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Protocol

from medusa_chat.engine import wire
from medusa_chat.errors import MedusaError, OutOfMemory
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

    def __init__(
        self,
        open_session: Opener,
        requests: BinaryIO,
        events: BinaryIO,
        abandon_load: Callable[[], None] = lambda: None,
    ) -> None:
        """abandon_load: called in a load that nobody waits for any more, which else goes on to its end."""
        self._open_session = open_session
        self._abandon_load = abandon_load
        self._is_loading = self._has_ended = False
        self._requests = requests
        self._events = events
        self._queue: queue.SimpleQueue[wire.Load | wire.Reply | None] = queue.SimpleQueue()
        self._session: ServableSession | None = None
        # Options and cancel belong to the reading thread, which hands them to the session at once; the
        # other one hands them to a session it has just opened.
        self._handing = threading.Lock()
        self._options = SamplingOptions()
        self._cancelled = False

    def run(self) -> None:
        """Serves until standard input ends."""
        threading.Thread(target=self._read_requests, daemon=True).start()
        while (request := self._queue.get()) is not None:
            try:
                match request:
                    case wire.Load(load):
                        self._load(load)
                    case wire.Reply(messages):
                        self._reply(messages)
            except MedusaError as error:
                self._send(wire.Failed(type(error).__name__, str(error)))

    def _read_requests(self) -> None:
        for line in self._requests:
            request = wire.decode_request(line)
            match request:
                case wire.SetOptions(options):
                    self._control(options=options)
                case wire.Cancel():
                    self._control(cancelled=True)
                case wire.Reply(_, options):
                    # Here, not when the reply starts: what is read next may be a change or a cancel of it.
                    self._control(options=options, cancelled=False)
                    self._queue.put(request)
                case wire.Load():
                    self._queue.put(request)
        # The parent is gone or wants the end: a reply under way must not outlive it.
        self._has_ended = True
        self._queue.put(None)
        self._control(cancelled=True)
        if self._is_loading:
            self._abandon_load()

    def _control(self, options: SamplingOptions | None = None, cancelled: bool | None = None) -> None:
        with self._handing:
            self._options = self._options if options is None else options
            self._cancelled = self._cancelled if cancelled is None else cancelled
            self._hand_over()

    def _hand_over(self) -> None:
        if self._session is not None:
            self._session.options = self._options
            self._session.cancelled = self._cancelled

    def _load(self, request: LoadRequest) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        session = self._open(request)
        with self._handing:
            self._session = session
            self._hand_over()
        self._send(wire.Loaded(session.info))

    def _open(self, request: LoadRequest) -> ServableSession:
        self._is_loading = True
        if self._has_ended:
            self._abandon_load()
        try:
            return self._open_session(request, lambda progress: self._send(wire.Progressed(progress)))
        finally:
            self._is_loading = False

    def _reply(self, messages: Sequence[Message]) -> None:
        if self._session is None:
            raise MedusaError("No model is loaded.")
        try:
            for item in self._session.reply(messages):
                self._send(wire.Started(item) if isinstance(item, ReplyStarted) else wire.Chunked(item))
        except OutOfMemory:
            self._send(wire.Loaded(self._session.info))  # its context may be shorter now
            raise
        self._send(wire.Finished())

    def _send(self, event: wire.Event) -> None:
        # At once: chunks kept for those of the next 40 ms were lost with an engine that was killed, and kept
        # no more of its speed.
        self._events.write(wire.encode_event(event))
        self._events.flush()


def serve(open_session: Opener) -> None:
    """Serves over this process's standard streams."""
    # Libraries print to standard output; the events go over a copy of it that only we hold.
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        # A load is one long call, with nothing to undo but the memory it takes.
        Worker(open_session, sys.stdin.buffer, events, abandon_load=lambda: os._exit(1)).run()
    except Exception as error:
        # The parent tells the last line: a traceback's own may be advice to developers.
        traceback.print_exc()
        print(_last_words(error), file=sys.stderr, flush=True)
        os._exit(1)  # the reading thread holds standard input, and an orderly end would abort over it


def _last_words(error: Exception) -> str:
    first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def main() -> None:
    from medusa_chat.engine.opening import OnProgress
    from medusa_chat.engine.session import Session, open_session

    def open_chat(request: LoadRequest, on_progress: OnProgress) -> Session:
        session = open_session(request, on_progress)
        session.times_plain_steps = True  # for the panel
        return session

    serve(open_chat)


if __name__ == "__main__":
    main()
