"""Where each version of the kernels keeps what is compiled of it; those long unused go."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

_DIGITS = 16
_NAME = re.compile(f"[0-9a-f]{{{_DIGITS}}}")
_SECONDS_KEPT = 30 * 24 * 3600  # unused: another version may be installed beside this one


def folder_of(sources: bytes, home: Path) -> Path:
    """In `home`, where others' folders may lie too. A new version's is made, and clears out those of old
    ones; whoever still runs from one of those compiles anew what is missing. Never raises.
    """
    folder = home / hashlib.sha256(sources).hexdigest()[:_DIGITS]
    with suppress(OSError):
        is_new = not folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # used now
        if is_new:
            _clear_out(home)
    return folder


def _clear_out(home: Path) -> None:
    last = time.time() - _SECONDS_KEPT
    for folder in filter(lambda folder: _NAME.fullmatch(folder.name), home.iterdir()):
        with suppress(OSError):  # another process may clear out as well
            if folder.stat().st_mtime < last:
                shutil.rmtree(folder)
