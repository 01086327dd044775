"""A reply in the making."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medusa_chat.app import figures
from medusa_chat.app.conversation import Conversation, Turn
from medusa_chat.app.meter import ReplyMeter
from medusa_chat.app.origins import pieces_of
from medusa_chat.app.turns import AssistantTurn
from medusa_chat.printable import printable
from medusa_chat.records import Chunk, FinishReason

_ENDINGS: dict[FinishReason | None, str] = {
    None: "■ broken off",
    "cancelled": "■ stopped",
    "length": "■ reached the most tokens of a reply",
    "context": "■ the context is full",
}


@dataclass(slots=True)
class Answer:
    """turn: None until the first text arrives, unless an earlier reply is gone on with. is_saved: the
    question is on disk, or can't be put there. is_asked: the engine has the question. is_second_try: it had
    it once before, and crashed without a word.
    """

    widget: AssistantTurn
    meter: ReplyMeter
    turn: Turn | None = None
    is_saved: bool = False
    is_asked: bool = False
    is_second_try: bool = False
    finish_reason: FinishReason | None = None

    def begin(self) -> None:
        """Shows what there is of a reply that is gone on with."""
        if self.turn is not None:
            self.turn.reopen()
            self.widget.turn = self.turn
            self.widget.show_caption("")
            self.widget.feed(self.turn.content)

    def grow(self, chunks: Sequence[Chunk], conversation: Conversation) -> None:
        """Takes in what the engine has added. The first text adds a turn to the conversation."""
        for chunk in chunks:
            self.meter.add(chunk.step)
            self.finish_reason = chunk.finish_reason or self.finish_reason
        text = "".join(chunk.text for chunk in chunks)
        if not text:
            return
        if self.turn is None:
            self.turn = self.widget.turn = conversation.add("assistant", "", partial=True)
            self.widget.show_caption("")
        self.turn.content += printable(text)
        self.turn.pieces += pieces_of(chunks)
        self.widget.feed(text)

    async def finish(self) -> None:
        """No more chunks come."""
        if self.turn is not None:
            self.turn.partial, self.turn.caption = self.was_cut, self.caption()
            self.widget.finish(self.turn.caption)
        elif self.finish_reason is None:
            await self.widget.remove()  # the notice of the error says it all
        else:
            self.widget.show_caption(f"no text · {self.caption()}")

    @property
    def was_cut(self) -> bool:
        """The model didn't come to the end of what it had to say because it was stopped or it broke."""
        return self.finish_reason in (None, "cancelled")

    def caption(self) -> str:
        ending = _ENDINGS.get(self.finish_reason)
        figures_line = figures.caption(self.meter)
        return f"{ending} · {figures_line}" if ending else figures_line
