"""What the engine's child process and its parent say to each other: one JSON object a line.

Requests go down the child's standard input, events come back on its standard output. Nothing is pickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from medusa_chat.records import (
    Chunk,
    EngineInfo,
    LoadProgress,
    LoadRequest,
    Message,
    ReplyStarted,
    SamplingOptions,
)


@dataclass(frozen=True, slots=True)
class Load:
    """Load this model, dropping the one before. Answered by Progressed…, then Loaded or Failed."""

    request: LoadRequest
    kind: Literal["load"] = "load"


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer these messages. Answered by Started, Chunked…, Finished; or Failed, with a Loaded before it
    where memory ran out and what is loaded has less room now.
    """

    messages: tuple[Message, ...]
    options: SamplingOptions
    kind: Literal["reply"] = "reply"


@dataclass(frozen=True, slots=True)
class SetOptions:
    """Use these options from the next step on. Not answered."""

    options: SamplingOptions
    kind: Literal["options"] = "options"


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the reply under way; its last chunk comes with finish_reason "cancelled"."""

    kind: Literal["cancel"] = "cancel"


Request = Annotated[Load | Reply | SetOptions | Cancel, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class Progressed:
    progress: LoadProgress
    kind: Literal["progress"] = "progress"


@dataclass(frozen=True, slots=True)
class Loaded:
    info: EngineInfo
    kind: Literal["loaded"] = "loaded"


@dataclass(frozen=True, slots=True)
class Started:
    started: ReplyStarted
    kind: Literal["started"] = "started"


@dataclass(frozen=True, slots=True)
class Chunked:
    chunk: Chunk
    kind: Literal["chunk"] = "chunk"


@dataclass(frozen=True, slots=True)
class Finished:
    kind: Literal["finished"] = "finished"


@dataclass(frozen=True, slots=True)
class Failed:
    """error: the name of a class in errors.py, so that the parent raises what the child raised."""

    error: str
    message: str
    kind: Literal["failed"] = "failed"


Event = Annotated[Progressed | Loaded | Started | Chunked | Finished | Failed, Field(discriminator="kind")]

_WHEN_USED = ConfigDict(defer_build=True)  # which in the app is after the first picture
_REQUESTS: TypeAdapter[Request] = TypeAdapter(Request, config=_WHEN_USED)
_EVENTS: TypeAdapter[Event] = TypeAdapter(Event, config=_WHEN_USED)


def encode_request(request: Request) -> bytes:
    return _REQUESTS.dump_json(request) + b"\n"


def decode_request(line: bytes) -> Request:
    return _REQUESTS.validate_json(line)


def encode_event(event: Event) -> bytes:
    return _EVENTS.dump_json(event) + b"\n"


def decode_event(line: bytes) -> Event:
    return _EVENTS.validate_json(line)
