"""Of several processes that do the same thing one works, and the others wait or leave it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medusa_chat.records import LoadProgress

_SECONDS_BETWEEN_TRIES = 0.5


@contextmanager
def only_one(lock_file: Path, name: str, on_progress: Callable[[LoadProgress], None]) -> Iterator[None]:
    """Held by one process at a time; the system lets go of it when that process dies. name: of what is
    pulled.
    """
    from filelock import FileLock, Timeout  # the app imports this module at its start, and needs no lock

    lock = FileLock(lock_file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        on_progress(LoadProgress(f"Waiting for another medusa-chat that is pulling {name}"))
        lock.acquire(poll_interval=_SECONDS_BETWEEN_TRIES)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def if_alone(lock_file: Path) -> Iterator[bool]:
    """Whether this process alone holds it now; if not, another one does, and nobody waits."""
    from filelock import FileLock, Timeout

    lock = FileLock(lock_file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
