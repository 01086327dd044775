"""Which paths begin as one that is being typed."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator

from medusa_chat.app.matching import closeness
from medusa_chat.printable import printable

_MOST = 200  # nobody reads more; folders may hold many thousands


def list_paths(typed: str) -> list[str]:
    """The paths, spelled on from what is typed, folders first and with a slash; hidden ones after a dot.

    Reads the disk, so it belongs into a thread. A folder that can't be read has none.
    """
    if typed == "~":
        return ["~/"]
    head = typed[: typed.rfind("/") + 1]
    try:
        found = heapq.nsmallest(_MOST, _entries(os.path.expanduser(head) or ".", typed[len(head) :]))
    except (OSError, ValueError):  # letters that the locale has no bytes for
        return []
    return [f"{head}{name}" for *_, name in found]


def _entries(folder: str, typed: str) -> Iterator[tuple[int, bool, str, str]]:
    """Sorts as it is shown: by closeness, folders first, by name."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            near = closeness(typed, name)
            is_fitting = name.startswith(".") == typed.startswith(".")
            if near is None or not is_fitting or printable(name) != name:
                continue
            is_folder = entry.is_dir()
            yield near, not is_folder, name.lower(), f"{name}/" if is_folder else name
