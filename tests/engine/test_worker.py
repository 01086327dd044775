"""The child's side: requests read while the worker is still busy with the one before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from io import BytesIO

from medusa_chat.engine import wire
from medusa_chat.engine.worker import Worker
from medusa_chat.records import Chunk, LoadRequest, Message, SamplingOptions
from tests.scripted_worker import ScriptedSession

_SECONDS_TO_WAIT = 10
_QUESTION = (Message("user", "temperature"),)


class _Line(BytesIO):
    """The worker's two streams. Requests beyond the first are all read before the load is answered."""

    def __init__(self, *rest: wire.Request) -> None:
        super().__init__()
        self._rest = rest
        self._is_loaded, self._is_read, self._is_over = (threading.Event() for _ in range(3))
        self.chunks: list[Chunk] = []

    def __iter__(self) -> Iterator[bytes]:  # type: ignore[override]
        yield wire.encode_request(wire.Load(LoadRequest("m")))
        self._is_loaded.wait(_SECONDS_TO_WAIT)
        yield from map(wire.encode_request, self._rest)
        self._is_read.set()
        self._is_over.wait(_SECONDS_TO_WAIT)

    def write(self, line: bytes) -> int:  # type: ignore[override]
        match wire.decode_event(line):
            case wire.Loaded():
                self._is_loaded.set()
                self._is_read.wait(_SECONDS_TO_WAIT)
            case wire.Chunked(chunk):
                self.chunks.append(chunk)
                if len(self.chunks) == 3:
                    self._is_over.set()  # which ends the reply, too
            case wire.Finished() | wire.Failed():
                self._is_over.set()
        return len(line)


def _serve(line: _Line) -> None:
    Worker(lambda request, progress: ScriptedSession(request.model), line, line).run()


def test_options_read_before_the_reply_starts_are_used_from_its_first_step() -> None:
    line = _Line(
        wire.Reply(_QUESTION, SamplingOptions(temperature=0.2)),
        wire.SetOptions(SamplingOptions(temperature=0.9)),
    )
    _serve(line)
    assert line.chunks[0].text.startswith("T=0.9")


def test_cancel_read_before_the_reply_starts_ends_it() -> None:
    line = _Line(wire.Reply(_QUESTION, SamplingOptions()), wire.Cancel())
    _serve(line)
    assert [(chunk.text, chunk.finish_reason) for chunk in line.chunks] == [("", "cancelled")]


def test_cancel_that_comes_after_the_end_does_not_touch_the_next_reply() -> None:
    line = _Line(wire.Cancel(), wire.Reply(_QUESTION, SamplingOptions()))
    _serve(line)
    assert line.chunks[0].text.startswith("T=0.2")
