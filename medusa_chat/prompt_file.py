"""Users' messages from a file: what training starts from and what a benchmark asks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medusa_chat.errors import UsageError


@dataclass(frozen=True, slots=True)
class UserPrompt:
    """A first message, and what kind it is where the file says so."""

    text: str
    category: str | None = None


@dataclass(frozen=True, slots=True)
class PromptFile:
    """bad_lines: numbers, from 1, of the lines that hold no prompt; they are left out."""

    prompts: list[UserPrompt]
    bad_lines: list[int]

    @property
    def complaint(self) -> str | None:
        """One sentence on the lines left out, or None."""
        if not self.bad_lines:
            return None
        some = ", ".join(map(str, self.bad_lines[:5])) + (", …" if self.bad_lines[5:] else "")
        return f"Lines that hold no prompt were left out: {len(self.bad_lines)} (line {some})."


def read_prompt_file(file: Path) -> PromptFile:
    """Reads a .jsonl of objects with `prompt`, or a list of `turns` or `conversations` (the first one is
    taken), and optionally `category`; any other file holds a prompt a line. Empty lines don't count.

    Raises UsageError if the file can't be read or holds no prompt at all.
    """
    try:
        # Not splitlines(): it also splits at characters that JSON allows within a string.
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text; convert it first.") from None
    is_jsonl = file.suffix == ".jsonl"
    read = _from_json if is_jsonl else UserPrompt
    prompts, bad_lines = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        prompt = read(line)
        if prompt is None:
            bad_lines.append(number)
        else:
            prompts.append(prompt)
    if not prompts:
        needed = "each line needs `prompt`, `turns` or `conversations`" if is_jsonl else "it is empty"
        raise UsageError(f"{file} holds no prompts: {needed}.")
    return PromptFile(prompts, bad_lines)


def _from_json(line: str) -> UserPrompt | None:
    try:
        entry: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    first = entry.get("prompt") or _first(entry.get("turns")) or _first(entry.get("conversations"))
    if isinstance(first, dict):
        first = first.get("value") or first.get("content")
    if not isinstance(first, str) or not first.strip() or not _is_unicode(first):
        return None
    category = entry.get("category")
    return UserPrompt(first, category if isinstance(category, str) else None)


def _first(turns: Any) -> Any:
    return turns[0] if isinstance(turns, list) and turns else None


def _is_unicode(text: str) -> bool:
    """False with half a surrogate pair, which JSON can write and no tokenizer can read."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
