"""The database's file: opened, migrated, and what may be wrong with it told in a sentence.

WAL and a busy timeout let several instances share it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from medusa_chat import paths
from medusa_chat.errors import DatabaseDamaged, HistoryError
from medusa_chat.history import schema

_BUSY_SECONDS = 5.0


class Database:
    """The one at path, opened on first use. Any thread may call.

    A damaged one is kept aside under another name, which the error tells; the next use begins a fresh one.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or paths.data_dir() / "history.db"
        self._connection: sqlite3.Connection | None = None
        self._inode: int | None = None
        self._lock = threading.RLock()

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
            if isinstance(error, sqlite3.Error) and _is_damage(error):
                raise DatabaseDamaged(self._set_aside()) from error
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
            self._inode = _inode(self._path)
            try:
                _prepare(db, self._path)
            except BaseException:
                db.close()
                raise
            self._connection = db
        return self._connection

    def _set_aside(self) -> str:
        """Renames the damaged file with its log, and says so in a sentence."""
        self._forget_connection()
        database = f"The conversation database {self._path} is damaged"
        if _inode(self._path) != self._inode:
            return f"{database}: another medusa-chat has kept it aside and begun a fresh one."
        aside = _vacant(
            self._path.with_name(f"{self._path.stem}-damaged-{time.strftime('%Y%m%d-%H%M%S')}.db")
        )
        try:
            self._path.rename(aside)
            for ending in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    self._path.with_name(self._path.name + ending).rename(f"{aside}{ending}")
        except OSError as error:
            return (
                f"{database} and can't be renamed ({error.strerror}). Move it away, and a fresh one is made."
            )
        return f"{database}. It is kept as {aside}, and a fresh one is begun."


def _open_to_read(path: Path) -> sqlite3.Connection:
    """A database whose folder can't be written."""
    # SQLite makes files beside one in WAL mode even to read it, unless told that nobody writes it. A log
    # that was left behind holds messages, though, and can be read where its index was left, too.
    how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, check_same_thread=False)
    try:
        _refuse_newer(db, path)
        _refuse_earlier(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    _use_wal(db)
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA foreign_keys = ON")
    if _version(db) < len(schema.MIGRATIONS):
        with _transaction(db):
            # Read again under the lock: another instance may have migrated meanwhile.
            for migration in schema.MIGRATIONS[_version(db) :]:
                for statement in migration:
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS)}")
    _refuse_newer(db, path)


def _refuse_newer(db: sqlite3.Connection, path: Path) -> None:
    if _version(db) > len(schema.MIGRATIONS):
        raise HistoryError(
            f"The conversation database {path} was written by a newer medusa-chat. Update this one."
        )


def _refuse_earlier(db: sqlite3.Connection, path: Path) -> None:
    if _version(db) < len(schema.MIGRATIONS):
        raise HistoryError(
            f"The conversation database {path} is from an earlier medusa-chat, and its folder can't be "
            "written to bring it up to date."
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


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _is_unwritable(error: sqlite3.Error) -> bool:
    return _code(error) in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)


def _is_damage(error: sqlite3.Error) -> bool:
    return _code(error) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


def _inode(path: Path) -> int | None:
    """Which file stands at the path; None for none."""
    with contextlib.suppress(OSError):
        return os.stat(path).st_ino
    return None


def _vacant(path: Path) -> Path:
    while path.exists():
        path = path.with_stem(f"{path.stem}-2")
    return path


def _sentence(path: Path, error: sqlite3.Error | OSError) -> str:
    """What is wrong with the database and what to do about it."""
    database = f"The conversation database {path}"
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return f"{database} can't be opened ({reason}). Set MEDUSA_CHAT_HOME to a folder that can be written."
    if _is_unwritable(error):
        return f"{database} can't be written. Make its folder writable, or set MEDUSA_CHAT_HOME."
    match _code(error):
        case sqlite3.SQLITE_FULL:
            return f"{database} can't grow: the disk is full. Free some space."
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"{database} is held by another program. Close that one."
    return f"{database} can't be used ({error}). Set MEDUSA_CHAT_HOME to another folder."
