"""Text files attached to a message by @path.

A message that has some reads, for the model and in the history, as it was typed, and then for each file

    (empty line)
    Attached file: NAME (12 lines, 1.2 kB)
    ```
    the 12 lines
    ```

to its very end. The fence has more backticks than any row of them in the file. By this shape, line counts
included, `read_attached` finds the files again in a conversation of earlier.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medusa_chat.app.at_words import AtWord, find_at_words
from medusa_chat.errors import UsageError
from medusa_chat.printable import printable
from medusa_chat.quantities import lines
from medusa_chat.quantities import size as size_of

LARGEST_FILE = 2_000_000  # bytes: more than any context holds
_BYTES_PER_TOKEN = 3.5
_HEADER = re.compile(r"\n\nAttached file: (.+) \(([\d,]+) lines?, (\d[\d.]* [kMG]?B)\)\n(`{3,})\n")


@dataclass(frozen=True, slots=True)
class AttachedFile:
    """name: as typed. size: in words, as the message has it."""

    name: str
    num_lines: int
    size: str

    def __str__(self) -> str:
        return f"{self.name} ({lines(self.num_lines)}, {self.size})"


@dataclass(frozen=True, slots=True)
class Attached:
    """A message as the user typed it and as it is sent, with the files that it carries."""

    typed: str
    sent: str
    files: tuple[AttachedFile, ...] = ()


def attach(text: str, tokens_left: int | None = None, pasted: Iterable[str] = ()) -> Attached:
    """Reads the files that @words in a text name. Reads the disk, so it belongs into a thread.

    tokens_left: of the model's context; None if no model is loaded. pasted: parts of the text in which an @
    names no file. Raises UsageError, with a sentence, for what can't be attached.
    """
    typed, sent, files = text, text, []
    for part in filter(None, map(str.strip, pasted)):  # the ends of the text have been stripped too
        text = text.replace(part, "\n")
    for name in dict.fromkeys(name for word in find_at_words(text) if (name := _file_name(word))):
        file, block = _read_block(name)
        files.append(file)
        sent += block
    if files and tokens_left is not None:
        _check_room(files, len(sent.encode()), tokens_left)
    return Attached(typed, sent, tuple(files))


def read_attached(content: str) -> Attached:
    """A message that was sent, taken apart again."""
    for header in _HEADER.finditer(content):
        files = _files_from(content, header)
        if files:
            return Attached(content[: header.start()], content, files)
    return Attached(content, content)


def display_text(content: str) -> str:
    """A message that was sent as the chat shows it: as typed, and a line for each file."""
    attached = read_attached(content)
    return "\n".join((attached.typed, *(f"↳ {file}" for file in attached.files)))


def _file_name(word: AtWord) -> str | None:
    """The name, of those that a word may mean, that something has."""
    return next((name for name in word.names if os.path.lexists(os.path.expanduser(name))), None)


def _read_block(name: str) -> tuple[AttachedFile, str]:
    content = _decoded(name, _read_bytes(name))
    text = printable(content.replace("\r\n", "\n").replace("\r", "\n"))
    body = text if text.endswith("\n") or not text else f"{text}\n"
    file = AttachedFile(printable(name), body.count("\n"), size_of(len(text.encode())))
    longest = max(map(len, re.findall("`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return file, f"\n\nAttached file: {file}\n{fence}\n{body}{fence}"


def _read_bytes(name: str) -> bytes:
    path = Path(name).expanduser()
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UsageError(f"@{name} is a folder: name a file in it. A space after the @ sends it as text.")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
            raise UsageError(f"@{name} is no regular file, and only those can be attached.")
        if status.st_size > LARGEST_FILE:
            raise UsageError(_too_large(name, status.st_size))
        with path.open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"@{name} can't be read: {printable(reason)}.") from None
    if len(content) > LARGEST_FILE:  # it grew, or lies in a file system that doesn't know sizes
        raise UsageError(_too_large(name, len(content)))
    return content


def _too_large(name: str, num_bytes: int) -> str:
    limit = size_of(LARGEST_FILE)
    return f"@{name} is too large ({size_of(num_bytes)}): files up to {limit} can be attached."


def _decoded(name: str, content: bytes) -> str:
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UsageError(f"@{name} is not text in UTF-8 or UTF-16: convert it first, or name another file.")
    return text


def _check_room(files: list[AttachedFile], num_bytes: int, tokens_left: int) -> None:
    wanted = round(num_bytes / _BYTES_PER_TOKEN)
    if wanted <= tokens_left:
        return
    what = f"@{files[0].name} makes the message" if len(files) == 1 else "The files make the message"
    fits = size_of(int(max(tokens_left, 0) * _BYTES_PER_TOKEN))
    raise UsageError(
        f"{what} about {wanted:,} tokens long, and {max(tokens_left, 0):,} are left of the context: about "
        f"{fits} of text fit. Attach less, or begin a new conversation."
    )


def _files_from(content: str, header: re.Match[str] | None) -> tuple[AttachedFile, ...]:
    """The files from this header to the end of the text; none if the shape isn't kept."""
    files = []
    while header is not None:
        name, counted, size, fence = header.groups()
        num_lines = int(counted.replace(",", ""))
        end = _after_lines(content, header.end(), num_lines)
        if end is None or not content.startswith(fence, end):
            return ()
        files.append(AttachedFile(name, num_lines, size))
        end += len(fence)
        if end == len(content):
            return tuple(files)
        header = _HEADER.match(content, end)
    return ()


def _after_lines(content: str, start: int, num_lines: int) -> int | None:
    for _ in range(num_lines):
        start = content.find("\n", start) + 1
        if not start:
            return None
    return start
