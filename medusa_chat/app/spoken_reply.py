"""A reply under way, read out in lines."""

from __future__ import annotations

from collections.abc import Callable

from medusa_chat.app.growing import GrowingReply
from medusa_chat.app.sentence_stream import SentenceStream
from medusa_chat.records import Chunk, FinishReason

_ENDINGS: dict[FinishReason | None, str] = {
    None: "Answer broken off",
    "cancelled": "Answer stopped",
    "length": "Answer reached the most tokens of a reply",
    "context": "Answer ended, as the context is full",
}


class SpokenReply:
    """Says nothing twice: a line only when it is whole."""

    def __init__(self, reply: GrowingReply, say: Callable[[str], None]) -> None:
        self._reply = reply
        self._say = say
        self._stream = SentenceStream()
        self._is_begun = bool(reply.reopen())

    def grow(self, chunk: Chunk) -> None:
        text = "".join(piece for piece, _ in self._reply.take((chunk,)))
        if text and not self._is_begun:
            self._is_begun = True
            self._say("Answer:")
        for line in self._stream.feed(text):
            self._say(line)

    def end(self) -> None:
        for line in self._stream.rest():
            self._say(line)
        self._reply.end()
        if self._reply.turn is not None:
            self._say(self._closing())
        elif self._reply.finish_reason is not None:
            self._say("The answer is empty.")

    def _closing(self) -> str:
        meter = self._reply.meter
        ending = _ENDINGS.get(self._reply.finish_reason, "Answer finished")
        parts = [ending, f"{meter.reply_tokens} tokens"]
        if meter.speedup is not None:
            parts.append(f"{meter.speedup:.1f} times as fast as plain")
        return f"{', '.join(parts)}."
