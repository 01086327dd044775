"""Finding conversations: in titles first, then in messages, the best match first."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from medusa_chat.history import excerpts
from medusa_chat.history.entries import SearchHit
from medusa_chat.history.excerpts import Excerpt, read_excerpt
from medusa_chat.history.rows import COLUMNS, as_record, conversations
from medusa_chat.history.unspaced import excerpt_around, has_unspaced, holds_all

_EXCERPT_WORDS = 12


def search(db: sqlite3.Connection, words: Sequence[str], limit: int) -> tuple[SearchHit, ...]:
    """Each conversation once, with the best of its messages."""
    if has_unspaced(words):
        return _merged(_titles_holding(db, words, limit), _messages_holding(db, words), limit)
    pattern = _pattern(words)
    return _merged(_title_hits(db, pattern, limit), _message_hits(db, pattern), limit)


def _merged(
    in_titles: Iterable[SearchHit], in_messages: Iterable[SearchHit], limit: int
) -> tuple[SearchHit, ...]:
    hits = {hit.conversation.id: hit for hit in in_titles}
    for hit in in_messages:
        known = hits.get(hit.conversation.id)
        if known is None and len(hits) == limit:
            break
        if known is None:
            hits[hit.conversation.id] = hit
        elif known.message is None:
            hits[hit.conversation.id] = replace(hit, title=known.title)
    return tuple(hits.values())


def _pattern(words: Sequence[str]) -> str:
    """Each word quoted, so that no character of the user's is an operator of FTS5."""
    return " ".join('"' + word.replace('"', '""') + '"' for word in words) + "*"


def _title_hits(db: sqlite3.Connection, pattern: str, limit: int) -> Iterator[SearchHit]:
    rows = db.execute(
        f"SELECT highlight(title_text, 0, ?, ?), {COLUMNS} "
        "FROM title_text JOIN conversation c ON c.id = title_text.rowid "
        "WHERE title_text MATCH ? AND c.deleted_at IS NULL ORDER BY rank LIMIT ?",
        (excerpts.BEGIN, excerpts.END, pattern, limit),
    )
    for title, *conversation in rows:
        yield SearchHit(as_record(conversation), read_excerpt(title))


def _message_hits(db: sqlite3.Connection, pattern: str) -> Iterator[SearchHit]:
    rows = db.execute(
        f"SELECT m.id, m.role, snippet(message_text, 0, ?, ?, '…', {_EXCERPT_WORDS}), {COLUMNS} "
        "FROM message_text JOIN message m ON m.id = message_text.rowid "
        "JOIN conversation c ON c.id = m.conversation_id "
        "WHERE message_text MATCH ? AND c.deleted_at IS NULL ORDER BY rank",
        (excerpts.BEGIN, excerpts.END, pattern),
    )
    for id, role, excerpt, *rest in rows:
        conversation = as_record(rest)
        yield SearchHit(conversation, Excerpt(conversation.name), read_excerpt(excerpt), id, role)


def _titles_holding(db: sqlite3.Connection, words: Sequence[str], limit: int) -> Iterator[SearchHit]:
    condition, values = holds_all("c.title", words)
    for conversation in conversations(
        db, f"AND {condition} ORDER BY updated_at DESC LIMIT ?", *values, limit
    ):
        yield SearchHit(conversation, excerpt_around(conversation.title, words))


def _messages_holding(db: sqlite3.Connection, words: Sequence[str]) -> Iterator[SearchHit]:
    condition, values = holds_all("m.content", words)
    rows = db.execute(
        f"SELECT m.id, m.role, m.content, {COLUMNS} FROM message m "
        "JOIN conversation c ON c.id = m.conversation_id "
        f"WHERE {condition} AND c.deleted_at IS NULL ORDER BY m.id DESC",
        values,
    )
    for id, role, content, *rest in rows:
        conversation = as_record(rest)
        excerpt = excerpt_around(content, words)
        yield SearchHit(conversation, Excerpt(conversation.name), excerpt, id, role)
