"""What `pull --json` prints: one JSON object a line, Progressed… and then Pulled or Failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from medusa_chat.records import LoadProgress


@dataclass(frozen=True, slots=True)
class Progressed:
    """How far it has come."""

    progress: LoadProgress
    kind: Literal["progress"] = "progress"


@dataclass(frozen=True, slots=True)
class Pulled:
    """folder: where the model lies now. was_here: nothing had to be fetched."""

    name: str
    folder: str
    was_here: bool
    kind: Literal["done"] = "done"


@dataclass(frozen=True, slots=True)
class Failed:
    """error: the name of a class in errors.py. message: what the user can do."""

    error: str
    message: str
    kind: Literal["failed"] = "failed"


Line = Annotated[Progressed | Pulled | Failed, Field(discriminator="kind")]
_LINES: TypeAdapter[Line] = TypeAdapter(Line)


def encode_line(line: Line) -> str:
    """Without its end."""
    return _LINES.dump_json(line).decode()


def decode_line(line: bytes) -> Line:
    return _LINES.validate_json(line)
