"""What the last load was to take of the memory and took, kept for `doctor`, which runs in another process."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from medusa_chat import paths
from medusa_chat.errors import CheckpointError
from medusa_chat.files import write_whole
from medusa_chat.records import Quantization

_FILE = "last-load.json"


@dataclass(frozen=True, slots=True)
class LastLoad:
    """planned, taken: bytes by part. seconds: by part too. date: as ISO 8601 has it, with its time zone."""

    model: str
    quantization: Quantization
    device: str
    dtype: str
    context_length: int
    date: str
    planned: dict[str, int] = dataclasses.field(default_factory=dict)
    taken: dict[str, int] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


_ADAPTER = TypeAdapter(LastLoad)


def last_load_file() -> Path:
    return paths.cache_dir() / _FILE


def keep_last_load(load: LastLoad) -> None:
    """Where there is no room for it, it is not kept: a chat needs none."""
    file = last_load_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, _ADAPTER.dump_json(load, indent=1) + b"\n")
    except (OSError, CheckpointError):
        return


def read_last_load() -> LastLoad | None:
    """None before the first load, or if the file is of another release or damaged."""
    try:
        return _ADAPTER.validate_json(last_load_file().read_bytes())
    except (OSError, ValidationError):
        return None
