"""What the history hands out. Times are seconds since the epoch."""

from __future__ import annotations

from dataclasses import dataclass

from medusa_chat.history.excerpts import Excerpt
from medusa_chat.records import Role

BEGINNING = 0  # in place of a parent's id: no message stands before


@dataclass(frozen=True, slots=True)
class ConversationRecord:
    """One conversation without its messages. title: printable, and empty until something gave it one.

    leaf_id: the last message of the branch on the screen; None for the newest. options: the sampling options
    as JSON; None for the defaults of the settings.
    """

    id: int
    title: str
    model: str
    system: str | None
    created_at: float
    updated_at: float
    pinned: bool
    leaf_id: int | None
    options: str | None

    @property
    def name(self) -> str:
        """The title, or a word in place of a missing one."""
        return self.title or "Untitled"


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """One message. parent_id: the one before it on its branch; None for a first one.

    partial: it was never finished (streaming, stopped, or the program ended).
    """

    id: int
    parent_id: int | None
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
