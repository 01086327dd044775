"""What has been said, and how it reaches the disk."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

from medusa_chat.errors import ConversationNotFound, DatabaseDamaged
from medusa_chat.history import History
from medusa_chat.records import Message, Role


@dataclass(eq=False, slots=True)
class Turn:
    """One message as the screen shows it. partial: still streaming, or never finished.

    refused: too long for the engine, so it is shown and kept but not sent again. caption: the line below it.
    """

    role: Role
    content: str
    partial: bool = False
    refused: bool = False
    caption: str = ""
    stored_id: int | None = None
    stored: tuple[str, bool] | None = None

    @property
    def is_stored(self) -> bool:
        return self.stored == (self.content, self.partial)


@dataclass(eq=False, slots=True)
class Conversation:
    """A system prompt and turns, oldest first. id: its row in the history, once it has one.

    is_deleted: the user doesn't want it kept.
    """

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    id: int | None = None
    stored_system: str | None = None
    is_deleted: bool = False

    def add(self, role: Role, content: str, partial: bool = False) -> Turn:
        turn = Turn(role, content, partial)
        self.turns.append(turn)
        return turn

    @property
    def is_stored(self) -> bool:
        # Nothing said yet: there is nothing worth a row.
        return (
            not self.turns
            or self.is_deleted
            or (self.stored_system == self.system and all(turn.is_stored for turn in self.turns))
        )

    def turn_stored_as(self, message_id: int | None) -> Turn | None:
        """The turn that this row of the history is of."""
        if message_id is None:
            return None
        return next((turn for turn in self.turns if turn.stored_id == message_id), None)

    def forget_rows(self) -> None:
        """Has all of it stored anew: its rows are gone."""
        self.id = None
        for turn in self.turns:
            turn.stored_id = turn.stored = None

    def refuse_question(self) -> None:
        """Marks the unanswered messages at the end as not to be sent again."""
        for turn in reversed(self.turns):
            if turn.role != "user":
                break
            turn.refused = True

    def messages(self) -> tuple[Message, ...]:
        """What the engine is asked with: no empty replies, and users' messages in a row made one.

        Both come of replies that failed, and chat templates want the roles to alternate.
        """
        messages = [Message("system", self.system)] if self.system else []
        for turn in self.turns:
            if turn.refused or not turn.content:
                continue
            if messages and messages[-1].role == turn.role:
                messages[-1] = Message(turn.role, f"{messages[-1].content}\n\n{turn.content}")
            else:
                messages.append(Message(turn.role, turn.content))
        return tuple(messages)


def load_conversation(history: History, conversation_id: int | None) -> Conversation | None:
    """The one of this id; for None that last written to, or None when there is none. Raises HistoryError."""
    record = history.latest() if conversation_id is None else history.conversation(conversation_id)
    if record is None:
        return None
    turns = [
        Turn(
            stored.role,
            stored.content,
            stored.partial,
            caption="■ not finished" if stored.partial else "",
            stored_id=stored.id,
            stored=(stored.content, stored.partial),
        )
        for stored in history.messages(record.id)
    ]
    return Conversation(record.system, turns, record.id, record.system)


class Recorder:
    """Writes what of conversations isn't stored yet. A save that failed is made up for by the next, also
    when another conversation has been begun by then.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._unsaved: dict[Conversation, str] = {}  # with the model each was asked
        self._lock = threading.Lock()

    @property
    def has_unsaved(self) -> bool:
        """A conversation is waiting for a save that doesn't fail."""
        return bool(self._unsaved)

    async def save(self, conversation: Conversation, model: str) -> None:
        """Raises HistoryError; what is not stored then stays marked so."""
        if not conversation.is_stored:
            self._unsaved[conversation] = model
        if self._unsaved:
            await asyncio.to_thread(self._write_unsaved)

    def _write_unsaved(self) -> None:
        # A thread's lock, not the loop's: a cancelled save goes on in its thread while the next begins.
        with self._lock:
            for conversation, model in tuple(self._unsaved.items()):
                if not conversation.is_stored:
                    self._write(conversation, model)
                self._unsaved.pop(conversation, None)

    def _write(self, conversation: Conversation, model: str) -> None:
        try:
            self._write_all(conversation, model)
        except ConversationNotFound:  # deleted elsewhere, and still talked in here
            conversation.forget_rows()
            self._write_all(conversation, model)
        except DatabaseDamaged:
            conversation.forget_rows()
            raise

    def _write_all(self, conversation: Conversation, model: str) -> None:
        self._write_conversation(conversation, model)
        for turn in tuple(conversation.turns):
            if not turn.is_stored:
                self._write_turn(conversation, turn)

    def _write_conversation(self, conversation: Conversation, model: str) -> None:
        system = conversation.system
        if conversation.id is None:
            conversation.id = self._history.create(model, system)
        elif conversation.stored_system != system:
            self._history.set_system(conversation.id, system)
        conversation.stored_system = system

    def _write_turn(self, conversation: Conversation, turn: Turn) -> None:
        content, partial = turn.content, turn.partial  # the turn may grow while it is written
        if turn.stored_id is None:
            assert conversation.id is not None
            turn.stored_id = self._history.add(conversation.id, turn.role, content, partial)
        else:
            self._history.update(turn.stored_id, content, partial)
        turn.stored = content, partial
