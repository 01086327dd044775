"""Slash commands: their table, and reading one."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from medusa_chat.errors import UsageError

Argument = Literal["text", "model", "option", "path"]


@dataclass(frozen=True, slots=True)
class Command:
    """name: as typed after the slash; the app answers with its method command_<name>. takes: what its
    argument is, for the box to complete; text can't be.
    """

    name: str
    argument: str
    help: str
    takes: Argument = "text"


COMMANDS = (
    Command("model", "NAME", "go on with another model; without a name: the list", "model"),
    Command("models", "", "what there is, what fits, what is here"),
    Command("system", "TEXT", "set the system prompt, or show it"),
    Command("set", "OPTION VALUE", "an exact value: /set temperature 0.7; without one: all values", "option"),
    Command("settings", "", "all options on one page"),
    Command("save", "", "keep the options of now as defaults, in config.toml"),
    Command("plain", "", "turn drafting off or on"),
    Command("again", "", "another answer to the last question; the one before is kept"),
    Command("continue", "", "go on with a reply that was stopped"),
    Command("edit", "", "say the last question otherwise; the one before is kept"),
    Command("copy", "NUMBER", "copy the last reply, or one of its blocks of code"),
    Command("raw", "", "the last reply's Markdown as it was written, or rendered"),
    Command("colours", "", "colour replies by who guessed each token"),
    Command("panel", "", "show the live panel, or hide it"),
    Command("race", "", "plain decoding against Medusa on the last question"),
    Command("search", "TEXT", "find conversations by title and text"),
    Command("rename", "TITLE", "give this conversation a title"),
    Command("export", "FILE", "write it as Markdown, or as JSON to a .json", "path"),
    Command("new", "", "begin a new conversation"),
    Command("retry", "", "load the model again after it failed"),
    Command("help", "", "show keys and commands"),
    Command("quit", "", "leave"),
)
_BY_NAME = {command.name: command for command in COMMANDS}


def parse_command(line: str) -> tuple[Command, str]:
    """The command and the rest of its line. Raises UsageError for an unknown one."""
    word, argument = [*line.removeprefix("/").split(None, 1), "", ""][:2]
    if word not in _BY_NAME:
        near = difflib.get_close_matches(word, _BY_NAME, n=1)
        hint = f"Did you mean /{near[0]}?" if near else "/help lists them."
        raise UsageError(
            f"There is no command /{word}. {hint} To send it as a message, put a space before the slash."
        )
    return _BY_NAME[word], argument.strip()


def is_command_line(text: str) -> bool:
    """A single line that begins with the name of a command."""
    line = text.strip()
    return "\n" not in line and line.startswith("/") and line[1:].split(" ")[0] in _BY_NAME
