"""One large file of a hub, fetched so that any interruption costs seconds and not the whole of it.

The library goes on with a file only within one call: its next one begins anew, and a shard has gigabytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from medusa_chat.errors import CheckpointError


def fetch(url: str, blob: Path, size: int, on_size: Callable[[int], None]) -> None:
    """Fetches `url` into `blob`, which is named by its SHA-256, from where the last try ended.

    on_size is told how many bytes are here. Raises what the hub library raises; CheckpointError for a damaged
    file, which is thrown away.
    """
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_file(blob)
    if bytes_here(blob) > size:
        partial.unlink()
    with partial.open("ab") as stream:
        here = stream.tell()
        on_size(here)
        counted = _Counted(stream, on_size)
        http_get(url, counted, resume_size=here, headers=build_hf_headers(), expected_size=size)
    if _sha256(partial) != blob.name:
        partial.unlink()
        raise CheckpointError(
            f"What was downloaded from {url} is damaged and was thrown away. Pull it again; if that doesn't "
            "help, ask whoever runs the hub or the proxy on the way."
        )
    os.replace(partial, blob)


def bytes_here(blob: Path) -> int:
    """How much of the file an earlier try has fetched."""
    partial = partial_file(blob)
    return partial.stat().st_size if partial.is_file() else 0


def partial_file(blob: Path) -> Path:
    """Where a file lies until it is whole."""
    return blob.with_name(f"{blob.name}.medusa-chat.incomplete")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _Counted:
    """A file that tells how long it has become."""

    def __init__(self, stream: IO[bytes], on_size: Callable[[int], None]) -> None:
        self._stream = stream
        self._on_size = on_size

    def write(self, data: bytes) -> int:
        written = self._stream.write(data)
        # So that a kill loses nothing of what progress has shown.
        self._stream.flush()
        self._on_size(self._stream.tell())
        return written

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(position, whence)

    def truncate(self, size: int | None = None) -> int:
        return self._stream.truncate(size)
