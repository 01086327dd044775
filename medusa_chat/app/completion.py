"""What the word at the cursor may go on to: a command, its argument, or a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from medusa_chat import registry
from medusa_chat.app.at_words import unfinished_at_word, written_at_word
from medusa_chat.app.commands import COMMANDS
from medusa_chat.app.matching import closeness
from medusa_chat.app.path_completion import list_paths
from medusa_chat.errors import MedusaError

# What each option of /set takes: the words, or a text that says what may be typed.
OptionValues = Callable[[], Mapping[str, tuple[str, ...] | str]]

_COMMAND = re.compile(r"/(\S*)")
_ARGUMENT = re.compile(r"/(\S+)\s+(.*)")
_OPTION_AND_VALUE = re.compile(r"(\S+)\s+(.*)")
_LONGEST_LINE = 2_000
_TAKES = {command.name: command.takes for command in COMMANDS}


@dataclass(frozen=True, slots=True)
class Word:
    """What is being typed. start, end: its columns in the line, up to the cursor, with the slash, @ or quote
    before it. typed: without these. option: that a value is for.
    """

    kind: Literal["command", "model", "option", "value", "path", "file"]
    start: int
    end: int
    typed: str
    option: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """text: takes the word's place. label and note: as the list shows it."""

    text: str
    label: str
    note: str = ""


def find_word(left: str, is_command: bool) -> Word | None:
    """The word that ends at the cursor, with its line left of it. is_command: the line is one."""
    if len(left) > _LONGEST_LINE:
        return None
    if not is_command:
        found = unfinished_at_word(left)
        return found and Word("file", found[0], len(left), found[1])
    if match := _COMMAND.fullmatch(left):
        return Word("command", 0, len(left), match[1])
    if match := _ARGUMENT.fullmatch(left):
        return _argument(match[1], match[2], match.start(2))
    return None


def _argument(command: str, typed: str, start: int) -> Word | None:
    takes = _TAKES.get(command, "text")
    if takes == "text":
        return None
    if takes == "option" and (match := _OPTION_AND_VALUE.fullmatch(typed)):
        return Word("value", start + match.start(2), start + len(typed), match[2], match[1])
    return Word(takes, start, start + len(typed), typed)


def find_candidates(word: Word, option_values: OptionValues) -> list[Candidate]:
    """The closest first. Reads the disk unless the word is a command: it belongs into a thread."""
    if word.kind == "command":
        return _fitting(word.typed, _commands())
    if word.kind == "model":
        return _fitting(word.typed, _models())
    if word.kind == "option":
        return _fitting(word.typed, _options(option_values()))
    if word.kind == "value":
        values = option_values().get(word.option, ())
        return _fitting(word.typed, (Candidate(value, value) for value in _words(values)))
    paths = list_paths(word.typed)
    if word.kind == "path":
        return [Candidate(path, path) for path in paths]
    return [Candidate(text, path) for path in paths if (text := written_at_word(path))]


def common_beginning(word: Word, candidates: Iterable[Candidate]) -> str | None:
    """What all candidates that begin as the word does begin with, if that is more than is typed."""
    texts = [one.text for one in candidates if closeness(word.typed, one.label) == 0]
    first, last = min(texts, default=""), max(texts, default="")  # no two differ earlier than these
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    common = "".join(letter for letter, _ in same)
    return common if len(common) > word.end - word.start else None


def _fitting(typed: str, candidates: Iterable[Candidate]) -> list[Candidate]:
    ranked = [(closeness(typed, one.label), one) for one in candidates]
    return [one for wanted in (0, 1) for rank, one in ranked if rank == wanted]


def _commands() -> Iterator[Candidate]:
    for command in COMMANDS:
        space = " " if command.argument else ""
        note = f"{command.argument}  {command.help}".strip()
        yield Candidate(f"/{command.name}{space}", command.name, note)


def _models() -> Iterator[Candidate]:
    try:
        names = tuple(registry.load_registry())
    except MedusaError:  # /model itself says what is wrong with the user's file
        return
    for name in names:
        yield Candidate(name, name)


def _options(values: Mapping[str, tuple[str, ...] | str]) -> Iterator[Candidate]:
    for name, value in values.items():
        yield Candidate(f"{name} ", name, value if isinstance(value, str) else ", ".join(value))


def _words(values: tuple[str, ...] | str) -> tuple[str, ...]:
    return () if isinstance(values, str) else values
