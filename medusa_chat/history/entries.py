"""What the history hands out. Times are seconds since the epoch."""

from __future__ import annotations

from dataclasses import dataclass

from medusa_chat.history.excerpts import Excerpt
from medusa_chat.records import Role


@dataclass(frozen=True, slots=True)
class ConversationRecord:
    """One conversation without its messages. title: printable, and empty until something gave it one."""

    id: int
    title: str
    model: str
    system: str | None
    created_at: float
    updated_at: float
    pinned: bool

    @property
    def name(self) -> str:
        """The title, or a word in place of a missing one."""
        return self.title or "Untitled"


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """One message. partial: it was never finished (streaming, stopped, or the program ended)."""

    id: int
    role: Role
    content: str
    partial: bool
    created_at: float


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A conversation that matches. title: with what matches in it. message: the best of the messages that
    match, as an excerpt of a few words around the match; None where only the title does.
    """

    conversation: ConversationRecord
    title: Excerpt
    message: Excerpt | None = None
    message_id: int | None = None
    role: Role | None = None
