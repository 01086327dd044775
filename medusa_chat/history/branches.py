"""A conversation's messages as a tree: each names the one before it; those of one parent are alternatives."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from medusa_chat.errors import ConversationNotFound
from medusa_chat.history.entries import BEGINNING, MessageRecord


def all_messages(db: sqlite3.Connection, conversation_id: int) -> tuple[MessageRecord, ...]:
    """Those of every branch, in order of id: a message comes before what follows it."""
    rows = db.execute(
        "SELECT id, parent_id, role, content, partial, created_at FROM message "
        "WHERE conversation_id = ? ORDER BY id",
        (conversation_id,),
    ).fetchall()
    return tuple(
        MessageRecord(id, parent, role, text, bool(part), at) for id, parent, role, text, part, at in rows
    )


def on_screen(messages: Sequence[MessageRecord], leaf_id: int | None) -> tuple[MessageRecord, ...]:
    """Of all messages in order of id those of the branch that ends with the leaf, or else with the newest."""
    by_id: dict[int | None, MessageRecord] = {message.id: message for message in messages}
    message = by_id.get(leaf_id) or (messages[-1] if messages else None)
    branch = []
    while message is not None:
        branch.append(message)
        message = by_id.get(message.parent_id)
    return tuple(reversed(branch))


def places(messages: Sequence[MessageRecord]) -> dict[int, tuple[int, int]]:
    """Which of how many each message is, by id, for those that have alternatives."""
    alternatives: dict[int | None, list[int]] = {}
    for message in messages:
        alternatives.setdefault(message.parent_id, []).append(message.id)
    return {
        id: (place, len(ids))
        for ids in alternatives.values()
        if len(ids) > 1
        for place, id in enumerate(ids, start=1)
    }


def find_parent(db: sqlite3.Connection, conversation_id: int, parent_id: int | None) -> int | None:
    """What a new message stands after; parent_id: as `History.add` takes it. Raises ConversationNotFound."""
    if parent_id == BEGINNING:
        return None
    if parent_id is not None:
        require(db, conversation_id, parent_id)
        return parent_id
    (end,) = db.execute(
        "SELECT coalesce(leaf_id, (SELECT max(id) FROM message WHERE conversation_id = c.id)) "
        "FROM conversation c WHERE id = ?",
        (conversation_id,),
    ).fetchone()
    return None if end is None else int(end)


def require(db: sqlite3.Connection, conversation_id: int, message_id: int) -> None:
    """Raises ConversationNotFound unless the message is one of the conversation."""
    # The number of a conversation that is gone may have been given to another one; a message's never is.
    found = db.execute(
        "SELECT 1 FROM message WHERE id = ? AND conversation_id = ?", (message_id, conversation_id)
    )
    if found.fetchone() is None:
        raise ConversationNotFound(f"Conversation {conversation_id} has no message {message_id} any more.")
