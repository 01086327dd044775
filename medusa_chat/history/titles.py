"""Naming a conversation after its first exchange."""

from __future__ import annotations

import re

from medusa_chat.printable import printable

_LONGEST = 60
_LONGEST_GIVEN = 200
_FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$\n?|^(```|~~~).*", re.MULTILINE | re.DOTALL)
_FENCE_LINE = ("```", "~~~")
_MARKDOWN = re.compile(r"^(?:[#>*+\s]|- )+|(?<!\w)[*`]{1,3}(?=\S)|(?<=\S)[*`]{1,3}(?!\w)")
_PLEASANTRIES = re.compile(
    r"^(?:(?:hi|hello|hey|please|thanks|(?:can|could|would|will) you|(?:i want|i need|i'd like) you to"
    r"|tell me|so|ok|okay)\b[\s,.!:;]*)+",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r".{12,}?[.?!](?=\s)")


def title_of(question: str, answer: str = "") -> str:
    """A line from the question; from the answer where the question is nothing but code; '' for neither."""
    prose = _FENCE.sub("", question)
    for text in (prose, _FENCE.sub("", answer) if answer else "", question):
        if title := _short(_first_line(text)):
            return title
    return ""


def clean_title(text: str) -> str:
    """A title the user gave, as one printable line."""
    return " ".join(printable(text).split())[:_LONGEST_GIVEN].rstrip()


def _first_line(text: str) -> str:
    lines = (
        _MARKDOWN.sub("", line).strip()
        for line in printable(text).splitlines()
        if not line.startswith(_FENCE_LINE)
    )
    return next((line for line in lines if re.search(r"\w", line)), "")


def _short(line: str) -> str:
    line = " ".join(line.split())
    line = _PLEASANTRIES.sub("", line) or line
    if sentence := _SENTENCE.match(line):
        line = sentence[0]
    line = line[:1].upper() + line[1:].rstrip(".:,; ")
    if len(line) <= _LONGEST:
        return line
    words = line[:_LONGEST].rpartition(" ")[0] or line[: _LONGEST - 1]
    return words.rstrip(",;:- ") + "…"
