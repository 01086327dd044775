"""What the user has typed: drafts not sent yet, and the questions of all conversations."""

from __future__ import annotations

import sqlite3

from medusa_chat.errors import ConversationNotFound
from medusa_chat.printable import printable


def save_draft(db: sqlite3.Connection, conversation_id: int | None, text: str) -> None:
    """Replaces the draft of a conversation, or of one not begun yet (None). Raises ConversationNotFound."""
    db.execute("DELETE FROM draft WHERE conversation_id IS ?", (conversation_id,))
    if not text:
        return
    saved = db.execute(
        "INSERT INTO draft SELECT ?1, ?2 "
        "WHERE ?1 IS NULL OR EXISTS (SELECT 1 FROM conversation WHERE id = ?1)",
        (conversation_id, printable(text)),
    )
    if saved.rowcount == 0:
        raise ConversationNotFound(f"There is no conversation {conversation_id} any more.")


def draft(db: sqlite3.Connection, conversation_id: int | None) -> str:
    """What was typed and not sent; '' for nothing."""
    found = db.execute("SELECT content FROM draft WHERE conversation_id IS ?", (conversation_id,)).fetchone()
    return str(found[0]) if found else ""


def questions(db: sqlite3.Connection, limit: int) -> tuple[str, ...]:
    """The user's latest messages, newest first, each once."""
    # CROSS JOIN keeps this order, which reads no more of the messages than are wanted.
    rows = db.execute(
        "SELECT content FROM message m CROSS JOIN conversation c ON c.id = m.conversation_id "
        "WHERE m.role = 'user' AND c.deleted_at IS NULL ORDER BY m.id DESC"
    )
    found: dict[str, None] = {}
    for (content,) in rows:
        if len(found) == limit:
            break
        found.setdefault(content)
    return tuple(found)
