"""Rows of the conversation table that haven't been deleted, as records."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from medusa_chat.errors import ConversationNotFound
from medusa_chat.history.entries import ConversationRecord
from medusa_chat.history.titles import clean_title

COLUMNS = "c.id, c.title, c.model, c.system, c.created_at, c.updated_at, c.pinned, c.leaf_id, c.options"
_MOST_ID = 2**63 - 1  # of SQLite


def conversations(db: sqlite3.Connection, order: str, *values: object) -> Iterator[ConversationRecord]:
    """Those that fit; order: further conditions, and ORDER BY, in SQL."""
    rows = db.execute(
        f"SELECT {COLUMNS} FROM conversation c WHERE deleted_at IS NULL {order}", values
    ).fetchall()
    return map(as_record, rows)


def find(db: sqlite3.Connection, conversation_id: int) -> ConversationRecord:
    """The one of this id. Raises ConversationNotFound."""
    found = None
    if 0 < conversation_id <= _MOST_ID:
        found = next(conversations(db, "AND c.id = ?", conversation_id), None)
    if found is None:
        raise ConversationNotFound(
            f"There is no conversation {conversation_id}. `medusa-chat history list` shows those there are."
        )
    return found


def as_record(row: Sequence[Any]) -> ConversationRecord:
    """Of a row of COLUMNS."""
    id, title, model, system, created_at, updated_at, pinned, *rest = row
    return ConversationRecord(
        id, clean_title(title), model, system, created_at, updated_at, bool(pinned), *rest
    )
