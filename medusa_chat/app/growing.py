"""A reply that grows: what of it is kept and counted, whoever shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medusa_chat.app.conversation import Conversation, Piece, Turn
from medusa_chat.app.meter import ReplyMeter
from medusa_chat.app.origins import pieces_of
from medusa_chat.records import Chunk, FinishReason


@dataclass(slots=True)
class GrowingReply:
    """turn: None until the first text arrives, unless an earlier reply is gone on with."""

    conversation: Conversation
    meter: ReplyMeter
    turn: Turn | None = None
    finish_reason: FinishReason | None = None

    def reopen(self) -> Sequence[Piece]:
        """What there is of a reply that is gone on with."""
        if self.turn is None:
            return ()
        self.turn.reopen()
        return self.turn.pieces

    def take(self, chunks: Sequence[Chunk]) -> Sequence[Piece]:
        """Takes in what the engine has added and returns its text, safe to show.

        The first text adds a turn to the conversation.
        """
        for chunk in chunks:
            self.meter.add(chunk.step)
            self.finish_reason = chunk.finish_reason or self.finish_reason
        pieces = list(pieces_of(chunks))
        if pieces:
            if self.turn is None:
                self.turn = self.conversation.add("assistant", "", partial=True)
            self.turn.grow(pieces)
        return pieces

    def end(self) -> None:
        """No more chunks come. One that was stopped or broke off stays partial."""
        if self.turn is not None:
            self.turn.partial = self.finish_reason in (None, "cancelled")
