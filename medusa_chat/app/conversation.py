"""What has been said, and how it reaches the disk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from medusa_chat.errors import ConversationNotFound, DatabaseDamaged
from medusa_chat.history import BEGINNING, History, MessageRecord
from medusa_chat.printable import printable
from medusa_chat.records import Message, Role

Piece = tuple[str, int | None]  # text, and whose guess it was (records.Chunk.spans); None: nobody remembers


@dataclass(eq=False, slots=True)
class Turn:
    """One message as the screen shows it. partial: still streaming, or never finished.

    parent: the turn before it on its branch; None for a first one. refused: too long for the engine, so it is
    shown and kept but not sent again. caption: the line below it. pieces: the content by origin, for a reply
    that has grown in this session.
    """

    role: Role
    content: str
    partial: bool = False
    refused: bool = False
    caption: str = ""
    parent: Turn | None = None
    stored_id: int | None = None
    stored: tuple[str, bool] | None = None
    pieces: list[Piece] = field(default_factory=list)

    @property
    def is_stored(self) -> bool:
        return self.stored == (self.content, self.partial)

    def reopen(self) -> None:
        """Has a reply that was stopped grow on, in the same row."""
        self.partial, self.caption = True, ""
        self.pieces = self.all_pieces

    def grow(self, pieces: Sequence[Piece]) -> None:
        """Appends to the content."""
        self.content += "".join(text for text, _ in pieces)
        self.pieces += pieces

    @property
    def all_pieces(self) -> list[Piece]:
        """The content by origin, safe to show, whether that is known or not."""
        return self.pieces or [(printable(self.content), None)]


@dataclass(eq=False, slots=True)
class Conversation:
    """A system prompt and a tree of turns: those with the same parent are alternatives.

    turns: the branch on the screen, oldest first. all_turns: those of every branch, in order of creation.
    options_json: the sampling options; None for the defaults of the settings. id: its row in the history,
    once it has one. is_deleted: the user doesn't want it kept.
    """

    system: str | None = None
    options_json: str | None = None
    id: int | None = None
    stored_system: str | None = None
    stored_options: str | None = None
    stored_leaf: Turn | None = None
    is_deleted: bool = False
    turns: list[Turn] = field(default_factory=list, init=False)
    all_turns: list[Turn] = field(default_factory=list, init=False)
    _next: dict[Turn | None, list[Turn]] = field(default_factory=dict, init=False)
    # Of what comes next after a turn, which was on the screen last.
    _shown: dict[Turn | None, Turn] = field(default_factory=dict, init=False)

    def add(self, role: Role, content: str, partial: bool = False) -> Turn:
        """Appends to the branch on the screen."""
        turn = Turn(role, content, partial, parent=self.turns[-1] if self.turns else None)
        self._take(turn)
        self._shown[turn.parent] = turn
        self.turns.append(turn)
        return turn

    def take_over(self, turns: Iterable[Turn], leaf: Turn | None) -> None:
        """Turns of earlier, parents first. leaf: where the branch on the screen ends."""
        for turn in turns:
            self._take(turn)
        # Each branch goes on to its newest turn, but for the one on the screen.
        for step in (leaf, *reversed(self.all_turns)):
            while step is not None and step.parent not in self._shown:
                self._shown[step.parent] = step
                step = step.parent
        self.turns = _branch_to(leaf)

    def _take(self, turn: Turn) -> None:
        self._next.setdefault(turn.parent, []).append(turn)
        self.all_turns.append(turn)

    def alternatives(self, turn: Turn) -> list[Turn]:
        """All that has been said in this place, oldest first, the turn itself included."""
        return list(self._next[turn.parent])

    def go_before(self, turn: Turn) -> None:
        """Ends the branch right before a turn: what is added next is an alternative to it."""
        self.turns = _branch_to(turn.parent)

    def choose(self, turn: Turn) -> None:
        """Puts a branch on the screen that goes through a turn, and on to where it was left."""
        if turn in self.turns:
            return
        self.turns = _branch_to(turn)
        for step in self.turns:
            self._shown[step.parent] = step
        while turn in self._shown:
            turn = self._shown[turn]
            self.turns.append(turn)

    @property
    def leaf(self) -> Turn | None:
        """The end of the branch; None for one that is cut and has no other turn yet in place of the next."""
        turns = self.turns
        return turns[-1] if turns and turns[-1] not in self._shown else None

    @property
    def is_stored(self) -> bool:
        # Nothing said yet: there is nothing worth a row.
        return (
            not self.all_turns
            or self.is_deleted
            or (
                self.stored_system == self.system
                and self.stored_options == self.options_json
                and self.leaf in (None, self.stored_leaf)
                and all(turn.is_stored for turn in self.all_turns)
            )
        )

    def turn_stored_as(self, message_id: int | None) -> Turn | None:
        """The turn, on whichever branch, that this row of the history is of."""
        if message_id is None:
            return None
        return next((turn for turn in self.all_turns if turn.stored_id == message_id), None)

    def forget_rows(self) -> None:
        """Has all of it stored anew: its rows are gone."""
        self.id = self.stored_options = self.stored_leaf = None
        for turn in self.all_turns:
            turn.stored_id = turn.stored = None

    def refuse_question(self) -> None:
        """Marks the unanswered messages at the end as not to be sent again."""
        for turn in reversed(self.turns):
            if turn.role != "user":
                break
            turn.refused = True

    def messages(self, up_to: Turn | None = None) -> tuple[Message, ...]:
        """What the engine is asked with: no empty replies, and users' messages in a row made one.

        Both come of replies that failed, and chat templates want the roles to alternate. up_to: the last one.
        """
        messages = [Message("system", self.system)] if self.system else []
        for turn in self.turns if up_to is None else _branch_to(up_to):
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
    turns: dict[int | None, Turn] = {}
    for stored in history.all_messages(record.id):
        turns[stored.id] = _turn_of(stored, turns.get(stored.parent_id))
    leaf = turns.get(record.leaf_id) or next(reversed(turns.values()), None)
    conversation = Conversation(
        record.system, record.options, record.id, record.system, record.options, stored_leaf=leaf
    )
    conversation.take_over(turns.values(), leaf)
    return conversation


def _turn_of(stored: MessageRecord, parent: Turn | None) -> Turn:
    return Turn(
        stored.role,
        stored.content,
        stored.partial,
        caption="■ not finished" if stored.partial else "",
        parent=parent,
        stored_id=stored.id,
        stored=(stored.content, stored.partial),
    )


def _branch_to(leaf: Turn | None) -> list[Turn]:
    branch = []
    while leaf is not None:
        branch.append(leaf)
        leaf = leaf.parent
    return branch[::-1]


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
            for conversation in tuple(self._unsaved):
                # Out of the list first: what changes while it is written is put there again.
                model = self._unsaved.pop(conversation)
                try:
                    if not conversation.is_stored:
                        self._write(conversation, model)
                except BaseException:
                    self._unsaved.setdefault(conversation, model)
                    raise

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
        for turn in tuple(conversation.all_turns):  # parents come first
            if not turn.is_stored:
                self._write_turn(conversation, turn)
        self._write_leaf(conversation)

    def _write_conversation(self, conversation: Conversation, model: str) -> None:
        system = conversation.system
        if conversation.id is None:
            conversation.id = self._history.create(model, system)
        elif conversation.stored_system != system:
            self._history.set_system(conversation.id, system)
        conversation.stored_system = system
        options = conversation.options_json
        if conversation.stored_options != options:
            self._history.set_options(conversation.id, options)
            conversation.stored_options = options

    def _write_turn(self, conversation: Conversation, turn: Turn) -> None:
        content, partial = turn.content, turn.partial  # the turn may grow while it is written
        if turn.stored_id is None:
            assert conversation.id is not None
            parent_id = turn.parent.stored_id if turn.parent else BEGINNING
            turn.stored_id = self._history.add(conversation.id, turn.role, content, partial, parent_id)
            conversation.stored_leaf = turn
        else:
            self._history.update(turn.stored_id, content, partial)
        turn.stored = content, partial

    def _write_leaf(self, conversation: Conversation) -> None:
        leaf = conversation.leaf
        # One that came while the others were written is the next save's.
        if leaf is None or leaf is conversation.stored_leaf or leaf.stored_id is None:
            return
        assert conversation.id is not None
        # Before it is written: who goes back meanwhile to the one that was stored must be told from it.
        before, conversation.stored_leaf = conversation.stored_leaf, leaf
        try:
            self._history.set_leaf(conversation.id, leaf.stored_id)
        except BaseException:
            conversation.stored_leaf = before
            raise
