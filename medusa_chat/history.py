"""Conversations in SQLite: saved as they happen, found again by full text.

WAL and a busy timeout let several instances share the database. The schema grows by MIGRATIONS only.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medusa_chat import paths
from medusa_chat.errors import HistoryError
from medusa_chat.records import Role

_BUSY_SECONDS = 5.0
_TITLE_LENGTH = 60

# Append only: a database knows by user_version how many of these it has been through.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE conversation (
            id INTEGER PRIMARY KEY,
            title TEXT NOT NULL DEFAULT '',
            model TEXT NOT NULL,
            system TEXT,
            created_at REAL NOT NULL,
            updated_at REAL NOT NULL
        )""",
        """CREATE TABLE message (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            conversation_id INTEGER NOT NULL REFERENCES conversation(id) ON DELETE CASCADE,
            role TEXT NOT NULL,
            content TEXT NOT NULL,
            partial INTEGER NOT NULL DEFAULT 0,
            created_at REAL NOT NULL
        )""",
        "CREATE INDEX message_by_conversation ON message(conversation_id, id)",
        "CREATE INDEX conversation_by_update ON conversation(updated_at)",
        "CREATE VIRTUAL TABLE message_text USING fts5(content, content='message', content_rowid='id')",
        """CREATE TRIGGER message_inserted AFTER INSERT ON message BEGIN
            INSERT INTO message_text(rowid, content) VALUES (new.id, new.content);
        END""",
        """CREATE TRIGGER message_deleted AFTER DELETE ON message BEGIN
            INSERT INTO message_text(message_text, rowid, content) VALUES ('delete', old.id, old.content);
        END""",
        """CREATE TRIGGER message_updated AFTER UPDATE OF content ON message BEGIN
            INSERT INTO message_text(message_text, rowid, content) VALUES ('delete', old.id, old.content);
            INSERT INTO message_text(rowid, content) VALUES (new.id, new.content);
        END""",
    ),
)


@dataclass(frozen=True, slots=True)
class ConversationRecord:
    """One conversation without its messages. Times are seconds since the epoch."""

    id: int
    title: str
    model: str
    system: str | None
    created_at: float
    updated_at: float


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
    """A message that matches. excerpt: a few words around the match, matches in [brackets]."""

    conversation: ConversationRecord
    message_id: int
    role: Role
    excerpt: str


class History:
    """The database at path, opened on first use. Every method raises HistoryError; any thread may call."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or paths.data_dir() / "history.db"
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()

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
            db.execute("UPDATE conversation SET system = ? WHERE id = ?", (system, conversation_id))

    def add(self, conversation_id: int, role: Role, content: str, partial: bool = False) -> int:
        """Appends a message and returns its id. The first user message names the conversation."""
        now = time.time()
        with self._writing() as db:
            row = db.execute(
                "INSERT INTO message(conversation_id, role, content, partial, created_at) "
                "VALUES (?, ?, ?, ?, ?)",
                (conversation_id, role, content, partial, now),
            )
            db.execute("UPDATE conversation SET updated_at = ? WHERE id = ?", (now, conversation_id))
            if role == "user":
                db.execute(
                    "UPDATE conversation SET title = ? WHERE id = ? AND title = ''",
                    (_title(content), conversation_id),
                )
            return int(row.lastrowid or 0)

    def update(self, message_id: int, content: str, partial: bool) -> None:
        """Replaces a message's text, as it streams and when it ends."""
        with self._writing() as db:
            db.execute(
                "UPDATE message SET content = ?, partial = ? WHERE id = ?", (content, partial, message_id)
            )
            db.execute(
                "UPDATE conversation SET updated_at = ? "
                "WHERE id = (SELECT conversation_id FROM message WHERE id = ?)",
                (time.time(), message_id),
            )

    def latest(self) -> ConversationRecord | None:
        """The conversation last written to, or None when there is none."""
        return next(iter(self.list(limit=1)), None)

    def list(self, limit: int = 50) -> tuple[ConversationRecord, ...]:
        """Conversations, the last written to first."""
        with self._reading() as db:
            rows = db.execute(
                f"SELECT {_CONVERSATION} FROM conversation c ORDER BY updated_at DESC, id DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return tuple(ConversationRecord(*row) for row in rows)

    def messages(self, conversation_id: int) -> tuple[MessageRecord, ...]:
        """The conversation's messages, oldest first."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT id, role, content, partial, created_at FROM message "
                "WHERE conversation_id = ? ORDER BY id",
                (conversation_id,),
            ).fetchall()
        return tuple(MessageRecord(id, role, text, bool(part), at) for id, role, text, part, at in rows)

    def search(self, query: str, limit: int = 20) -> tuple[SearchHit, ...]:
        """Messages that hold every word of the query, the best match first. The last word may be a start."""
        # Quoted, so that no character of the user's is an operator of FTS5.
        words = ['"' + word.replace('"', '""') + '"' for word in query.split()]
        if not words:
            return ()
        with self._reading() as db:
            rows = db.execute(
                f"SELECT m.id, m.role, snippet(message_text, 0, '[', ']', '…', 12), {_CONVERSATION} "
                "FROM message_text JOIN message m ON m.id = message_text.rowid "
                "JOIN conversation c ON c.id = m.conversation_id "
                "WHERE message_text MATCH ? ORDER BY rank LIMIT ?",
                (" ".join(words) + "*", limit),
            ).fetchall()
        return tuple(
            SearchHit(ConversationRecord(*rest), id, role, excerpt) for id, role, excerpt, *rest in rows
        )

    def check_writable(self) -> None:
        """Raises HistoryError if nothing could be saved now."""
        with self._writing():
            pass

    def close(self) -> None:
        """Closes the database; a later call opens it again."""
        with self._lock, self._explaining():
            self._forget_connection()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._explaining(), contextlib.ExitStack() as stack:
            try:
                db = self._open()
            except sqlite3.OperationalError as error:
                if not _is_unwritable(error) or not self._path.exists():
                    raise
                # Not kept: the next use finds out whether it can be written by then.
                db = stack.enter_context(contextlib.closing(_open_to_read(self._path)))
            yield db

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._explaining(), _transaction(self._open()) as db:
            yield db

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.Error) and _is_unwritable(error):
                self._forget_connection()  # one opened anew finds out when that is over
            raise HistoryError(_sentence(self._path, error)) from error

    def _forget_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # isolation_level None: transactions begin and end where this module says so.
            db = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(db, self._path)
            except BaseException:
                db.close()
                raise
            self._connection = db
        return self._connection


_CONVERSATION = "c.id, c.title, c.model, c.system, c.created_at, c.updated_at"


def _open_to_read(path: Path) -> sqlite3.Connection:
    """A database whose folder can't be written."""
    # SQLite makes files beside one in WAL mode even to read it, unless told that nobody writes it. A log
    # that was left behind holds messages, though, and can be read where its index was left, too.
    how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, check_same_thread=False)
    try:
        _refuse_newer(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    _use_wal(db)
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA foreign_keys = ON")
    if _version(db) < len(MIGRATIONS):
        with _transaction(db):
            # Read again under the lock: another instance may have migrated meanwhile.
            for migration in MIGRATIONS[_version(db) :]:
                for statement in migration:
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    _refuse_newer(db, path)


def _refuse_newer(db: sqlite3.Connection, path: Path) -> None:
    if _version(db) > len(MIGRATIONS):
        raise HistoryError(
            f"The conversation database {path} was written by a newer medusa-chat. Update this one."
        )


def _use_wal(db: sqlite3.Connection) -> None:
    """Changing to WAL ignores the busy timeout, so two first starts at once must wait by hand."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _title(content: str) -> str:
    line = next((line.strip() for line in content.splitlines() if line.strip()), "")
    return line if len(line) <= _TITLE_LENGTH else line[: _TITLE_LENGTH - 1].rstrip() + "…"


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _is_unwritable(error: sqlite3.Error) -> bool:
    return _code(error) in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)


def _sentence(path: Path, error: sqlite3.Error | OSError) -> str:
    """What is wrong with the database and what to do about it."""
    database = f"The conversation database {path}"
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return f"{database} can't be opened ({reason}). Set MEDUSA_CHAT_HOME to a folder that can be written."
    if _is_unwritable(error):
        return f"{database} can't be written. Make its folder writable, or set MEDUSA_CHAT_HOME."
    match _code(error):
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return f"{database} is damaged. Move it away, and a fresh one is made."
        case sqlite3.SQLITE_FULL:
            return f"{database} can't grow: the disk is full. Free some space."
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"{database} is held by another program. Close that one."
    return f"{database} can't be used ({error}). Set MEDUSA_CHAT_HOME to another folder."
