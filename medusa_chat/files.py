"""Files that are there whole or not at all, whatever stops the program."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors

from medusa_chat.errors import CheckpointError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a full disk, missing rights and the like into a CheckpointError that names `path`."""
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(
            f"{path} can't be written ({reason}); see to that and run the same command again."
        ) from error


def write_whole(file: Path, content: bytes | memoryview) -> None:
    """Replaces `file` at one stroke. Raises CheckpointError; what was there before then still is."""
    partial = file.with_name(file.name + ".partial")
    with writing(file):
        try:
            with partial.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(file)
        except BaseException:
            partial.unlink(missing_ok=True)  # on a full disk its room is needed
            raise
