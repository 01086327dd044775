"""Conversations and their messages, as rows."""

from __future__ import annotations

import sqlite3
import time

from medusa_chat.errors import ConversationNotFound, HistoryError
from medusa_chat.history import branches, rows, searching, typed
from medusa_chat.history.database import Database
from medusa_chat.history.entries import ConversationRecord, MessageRecord, SearchHit
from medusa_chat.history.titles import clean_title, title_of
from medusa_chat.printable import printable
from medusa_chat.records import Role

SECONDS_TO_UNDO = 24 * 3600.0


class History(Database):
    """Every method raises HistoryError; those that name what isn't there, ConversationNotFound."""

    # Writing

    def create(self, model: str, system: str | None = None) -> int:
        """Begins a conversation and returns its id."""
        now = time.time()
        with self._writing() as db:
            row = db.execute(
                "INSERT INTO conversation(model, system, created_at, updated_at) VALUES (?, ?, ?, ?)",
                (model, system, now, now),
            )
            return int(row.lastrowid or 0)

    def set_system(self, conversation_id: int, system: str | None) -> None:
        """Replaces the conversation's system prompt."""
        with self._writing() as db:
            _change(db, conversation_id, "system = ?", system)

    def set_options(self, conversation_id: int, options: str | None) -> None:
        """Replaces the conversation's sampling options, as JSON; None for the defaults of the settings."""
        with self._writing() as db:
            _change(db, conversation_id, "options = ?", options)

    def add(
        self,
        conversation_id: int,
        role: Role,
        content: str,
        partial: bool = False,
        parent_id: int | None = None,
    ) -> int:
        """Puts a message after its parent and on the screen; returns its id.

        parent_id: None for the end of the branch on the screen, BEGINNING for no message at all. The first
        exchange names the conversation. A deleted one that goes on being written to isn't deleted any more.
        """
        now = time.time()
        with self._writing() as db:
            _change(db, conversation_id, "updated_at = ?, deleted_at = NULL", now)
            parent = branches.find_parent(db, conversation_id, parent_id)
            row = db.execute(
                "INSERT INTO message(conversation_id, parent_id, role, content, partial, created_at) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (conversation_id, parent, role, content, partial, now),
            )
            _change(db, conversation_id, "leaf_id = ?", row.lastrowid)
            if not partial:
                _name_after_exchange(db, conversation_id)
            return int(row.lastrowid or 0)

    def update(self, message_id: int, content: str, partial: bool) -> None:
        """Replaces a message's text, as it streams and when it ends."""
        with self._writing() as db:
            row = db.execute(
                "UPDATE message SET content = ?, partial = ? WHERE id = ? RETURNING conversation_id",
                (content, partial, message_id),
            ).fetchone()
            if row is None:
                raise ConversationNotFound("The conversation has been deleted meanwhile.")
            _change(db, row[0], "updated_at = ?", time.time())
            if not partial:
                _name_after_exchange(db, row[0])

    def set_leaf(self, conversation_id: int, message_id: int) -> None:
        """Puts the branch on the screen that ends with this message."""
        with self._writing() as db:
            branches.require(db, conversation_id, message_id)
            _change(db, conversation_id, "leaf_id = ?", message_id)

    def save_draft(self, conversation_id: int | None, text: str) -> None:
        """Keeps what is typed and not sent, '' for nothing; None: in a conversation that hasn't begun."""
        with self._writing() as db:
            typed.save_draft(db, conversation_id, text)

    def rename(self, conversation_id: int, title: str) -> None:
        """Gives a title, which then stays; control characters and line breaks are left out of it."""
        title = clean_title(title)
        if not title:
            raise HistoryError("A title needs a letter or more.")
        with self._writing() as db:
            _change(db, conversation_id, "title = ?", title)

    def pin(self, conversation_id: int, pinned: bool) -> None:
        """Keeps the conversation at the top of the list, or lets it go."""
        with self._writing() as db:
            _change(db, conversation_id, "pinned = ?", pinned)

    def delete(self, conversation_id: int) -> None:
        """Takes the conversation out of every list and search. `restore` brings it back until `purge`."""
        with self._writing() as db:
            rows.find(db, conversation_id)
            _change(db, conversation_id, "deleted_at = ?", time.time())

    def restore(self) -> ConversationRecord | None:
        """Undoes the latest deletion that still can be; None where there is none."""
        with self._writing() as db:
            row = db.execute(
                "SELECT id FROM conversation WHERE deleted_at IS NOT NULL ORDER BY deleted_at DESC LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            _change(db, row[0], "deleted_at = NULL")
            return rows.find(db, row[0])

    def purge(self) -> None:
        """Removes for good what was deleted more than a day ago. Fails wherever nothing could be saved."""
        with self._writing() as db:
            db.execute("DELETE FROM conversation WHERE deleted_at < ?", (time.time() - SECONDS_TO_UNDO,))

    # Reading

    def conversation(self, conversation_id: int) -> ConversationRecord:
        """The one of this id."""
        with self._reading() as db:
            return rows.find(db, conversation_id)

    def latest(self) -> ConversationRecord | None:
        """The conversation last written to, or None when there is none."""
        with self._reading() as db:
            return next(rows.conversations(db, "ORDER BY updated_at DESC, id DESC LIMIT 1"), None)

    def list(self, limit: int = 50) -> tuple[ConversationRecord, ...]:
        """Conversations: the pinned ones, then the others, each the last written to first."""
        with self._reading() as db:
            return tuple(
                rows.conversations(db, "ORDER BY pinned DESC, updated_at DESC, id DESC LIMIT ?", limit)
            )

    def messages(self, conversation_id: int) -> tuple[MessageRecord, ...]:
        """Those of the branch on the screen, oldest first."""
        with self._reading() as db:
            found = branches.all_messages(db, conversation_id)
            leaf = db.execute("SELECT leaf_id FROM conversation WHERE id = ?", (conversation_id,)).fetchone()
        return branches.on_screen(found, leaf and leaf[0])

    def all_messages(self, conversation_id: int) -> tuple[MessageRecord, ...]:
        """Those of every branch, in order of id."""
        with self._reading() as db:
            return branches.all_messages(db, conversation_id)

    def draft(self, conversation_id: int | None) -> str:
        """What `save_draft` has kept, or ''."""
        with self._reading() as db:
            return typed.draft(db, conversation_id)

    def questions(self, limit: int) -> tuple[str, ...]:
        """The user's latest messages in all conversations, newest first, each once."""
        with self._reading() as db:
            return typed.questions(db, limit)

    def search(self, query: str, limit: int = 20) -> tuple[SearchHit, ...]:
        """Conversations whose title, or a message of which, holds every word; the last may be a start.

        Hits in titles come first, then the best match first.
        """
        words = printable(query).split()
        if not words:
            return ()
        with self._reading() as db:
            return searching.search(db, words, limit)


def _change(db: sqlite3.Connection, conversation_id: int, assignment: str, *values: object) -> None:
    changed = db.execute(f"UPDATE conversation SET {assignment} WHERE id = ?", (*values, conversation_id))
    if changed.rowcount == 0:
        raise ConversationNotFound(f"There is no conversation {conversation_id} any more.")


def _name_after_exchange(db: sqlite3.Connection, conversation_id: int) -> None:
    """Unless the user has given a title: one that isn't what the question alone gives is theirs."""
    first = db.execute(
        "SELECT role, content FROM message WHERE conversation_id = ? ORDER BY id LIMIT 3", (conversation_id,)
    ).fetchall()
    if len(first) > 2 or first[0][0] != "user":
        return
    question, answer = first[0][1], first[1][1] if len(first) > 1 else ""
    db.execute(
        "UPDATE conversation SET title = ? WHERE id = ? AND title IN ('', ?)",
        (title_of(question, answer), conversation_id, title_of(question)),
    )
