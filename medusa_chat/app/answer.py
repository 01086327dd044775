"""A reply in the making, on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medusa_chat.app import figures
from medusa_chat.app.conversation import Piece
from medusa_chat.app.growing import GrowingReply
from medusa_chat.app.turns import AssistantTurn
from medusa_chat.records import Chunk, FinishReason

_ENDINGS: dict[FinishReason | None, str] = {
    None: "■ broken off",
    "cancelled": "■ stopped",
    "length": "■ reached the most tokens of a reply",
    "context": "■ the context is full",
}


@dataclass(slots=True)
class Answer:
    """is_saved: the question is on disk, or can't be put there. is_asked: the engine has the question.
    is_second_try: it had it once before, and crashed without a word.
    """

    widget: AssistantTurn
    reply: GrowingReply
    is_saved: bool = False
    is_asked: bool = False
    is_second_try: bool = False

    def begin(self) -> None:
        """Shows what there is of a reply that is gone on with."""
        if pieces := self.reply.reopen():
            self._show(pieces)

    def grow(self, chunks: Sequence[Chunk]) -> None:
        """Shows what the engine has added."""
        if pieces := self.reply.take(chunks):
            self._show(pieces)

    def _show(self, pieces: Sequence[Piece]) -> None:
        if self.widget.turn is None:
            self.widget.turn = self.reply.turn
            self.widget.show_caption("")
        self.widget.feed(pieces)

    async def finish(self) -> None:
        """No more chunks come."""
        self.reply.end()
        if (turn := self.reply.turn) is not None:
            turn.caption = self._caption()
            self.widget.finish(turn.caption)
        elif self.reply.finish_reason is None:
            await self.widget.remove()  # the notice of the error says it all
        else:
            self.widget.show_caption(f"no text · {self._caption()}")

    def _caption(self) -> str:
        ending = _ENDINGS.get(self.reply.finish_reason)
        figures_line = figures.caption(self.reply.meter)
        return f"{ending} · {figures_line}" if ending else figures_line
