"""Copying: into the system's clipboard where that can be checked; else to the terminal and into a file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from medusa_chat import paths

_REMOTE = ("SSH_CONNECTION", "SSH_TTY", "SSH_CLIENT")


async def copy(text: str, what: str, send_to_terminal: Callable[[str], None]) -> str:
    """Copies, and returns a sentence that claims no more than is known. what: is copied, as in "the message".

    send_to_terminal: by the terminal's own escape sequence, which no terminal answers.
    """
    if await asyncio.to_thread(_copy_checked, text):
        return f"Copied {what}, {len(text):,} characters"
    send_to_terminal(text)
    file = await asyncio.to_thread(_keep_copy, text)
    kept = f"; it is also in {file}" if file else ""
    return f"Sent {what} to the terminal, which may not take it{kept}"


def _copy_checked(text: str) -> bool:
    """Whether the system's clipboard holds the text now: it is read back, for some take a text and lose it.

    Programs such as xclip run meanwhile, so call it in a thread.
    """
    if any(os.environ.get(name) for name in _REMOTE):
        return False  # the clipboard over there is not that of whoever sits here
    import pyperclip  # its parts for Windows and macOS would delay the first picture

    try:
        pyperclip.copy(text)
        return _lines(pyperclip.paste()) == _lines(text)
    except (pyperclip.PyperclipException, OSError, UnicodeError):
        return False


def _keep_copy(text: str) -> Path | None:
    """Writes what was copied last into a file, for terminals that don't take it; None where that fails."""
    file = paths.data_dir() / "copied.md"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", errors="replace")
    except OSError:
        return None
    return file


def _lines(text: str) -> str:
    # Windows keeps line breaks its own way, and wl-paste ends what it gives with one.
    return text.replace("\r\n", "\n").rstrip("\n")
