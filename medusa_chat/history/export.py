"""A conversation as a document: Markdown to read, or JSON for programs.

Both take all its messages, in order of id, and hold the branch on the screen; JSON has the others beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from medusa_chat.errors import HistoryError
from medusa_chat.history.branches import on_screen, places
from medusa_chat.history.entries import ConversationRecord, MessageRecord
from medusa_chat.printable import printable

ExportFormat = Literal["markdown", "json"]
ENDINGS: dict[ExportFormat, str] = {"markdown": ".md", "json": ".json"}
_SPEAKERS = {"user": "You", "assistant": "Assistant", "system": "System"}
_LONGEST_NAME = 48


def as_document(
    form: ExportFormat, conversation: ConversationRecord, messages: Sequence[MessageRecord]
) -> str:
    """The whole conversation, ended by a line break."""
    if form == "json":
        return json.dumps(as_object(conversation, messages), indent=2) + "\n"
    return as_markdown(conversation, messages)


def as_markdown(conversation: ConversationRecord, messages: Sequence[MessageRecord]) -> str:
    """A heading for each message, its text as it is but for control characters.

    A message that has alternatives says which of them it is.
    """
    began = datetime.fromtimestamp(conversation.created_at).strftime("%Y-%m-%d %H:%M")
    parts = [f"# {conversation.name}", f"{printable(conversation.model)} · {began}"]
    if conversation.system:
        parts += ["## System", printable(conversation.system)]
    place_of = places(messages)
    for message in on_screen(messages, conversation.leaf_id):
        place = " ({} of {})".format(*place_of[message.id]) if message.id in place_of else ""
        parts += [f"## {_SPEAKERS[message.role]}{place}", printable(message.content).strip("\n")]
        if message.partial:
            parts += ["*(not finished)*"]
    return "\n\n".join(parts) + "\n"


def as_object(conversation: ConversationRecord, messages: Sequence[MessageRecord]) -> dict[str, Any]:
    """What JSON holds of a conversation. alternatives: the messages of other branches; parent_id says where
    each belongs.
    """
    branch = on_screen(messages, conversation.leaf_id)
    shown = {message.id for message in branch}
    return {
        **summary(conversation),
        "system": conversation.system,
        "messages": [_describe(message) for message in branch],
        "alternatives": [_describe(message) for message in messages if message.id not in shown],
    }


def _describe(message: MessageRecord) -> dict[str, Any]:
    return {
        "id": message.id,
        "parent_id": message.parent_id,
        "role": message.role,
        "content": message.content,
        "partial": message.partial,
        "created_at": _iso(message.created_at),
    }


def summary(conversation: ConversationRecord) -> dict[str, Any]:
    """What JSON holds of a conversation in a list."""
    return {
        "id": conversation.id,
        "title": conversation.title,
        "model": conversation.model,
        "pinned": conversation.pinned,
        "created_at": _iso(conversation.created_at),
        "updated_at": _iso(conversation.updated_at),
    }


def file_name(conversation: ConversationRecord, form: ExportFormat) -> str:
    """A name any file system takes, from the title."""
    words = re.sub(r"[^\w]+", "-", conversation.title.lower()).strip("-_")[:_LONGEST_NAME].rstrip("-_")
    return (words or f"conversation-{conversation.id}") + ENDINGS[form]


def write_vacant(file: Path, document: str) -> Path:
    """Writes beside whatever is there already, under a numbered name, and returns where.

    Raises HistoryError; nothing half written stays.
    """
    number = 1
    path = file
    while path.exists():
        number += 1
        path = file.with_stem(f"{file.stem}-{number}")
    write_new(path, document)
    return path


def write_new(path: Path, document: str) -> None:
    """Raises HistoryError, also when there is such a file; nothing half written stays."""
    try:
        stream = path.open("x", encoding="utf-8", newline="\n")
    except FileExistsError:
        raise HistoryError(f"{path} is there already: name another file.") from None
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    try:
        with stream:
            # Half a surrogate pair can't be encoded.
            stream.write(document.encode("utf-8", "replace").decode("utf-8"))
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: Exception) -> HistoryError:
    reason = getattr(error, "strerror", None) or str(error)
    return HistoryError(f"{printable(str(path))} can't be written ({reason}).")


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
