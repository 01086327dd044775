"""Room on the disk, and what to say when there is none or it can't be written."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medusa_chat.errors import CheckpointError

_ELSEWHERE = "or put MEDUSA_CHAT_HOME on another disk"


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raises CheckpointError unless `needed` bytes are free where `folder` lies; `what` needs them."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"{folder} has {free / 1e9:.1f} GB free, but pulling {what} takes {needed / 1e9:.1f} GB. "
            f"Make room, {_ELSEWHERE}."
        )


@contextmanager
def plain_disk_errors(folder: Path, what_is_left: str) -> Iterator[None]:
    """Turns a full disk, missing rights and the like into a CheckpointError. what_is_left: of the pull."""
    try:
        yield
    except BrokenPipeError:
        raise  # nobody listens to the progress any more; no disk says so
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CheckpointError(
                f"The disk of {folder} is full. Make room, {_ELSEWHERE}; {what_is_left}."
            ) from None
        raise CheckpointError(
            f"The checkpoint can't be written to {folder}: {error.strerror or error}. "
            "Make that folder writable, or set MEDUSA_CHAT_HOME to one that is."
        ) from None
