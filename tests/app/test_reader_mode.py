"""The chat in lines, in a pseudo-terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from medusa_chat.app.commands import COMMANDS
from medusa_chat.app.sentence_stream import SentenceStream
from medusa_chat.bench.terminal import Terminal
from medusa_chat.history import History
from tests.app.program import open_program, watch_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
_SECONDS = 30


@pytest.fixture
def reader() -> Iterator[Terminal]:
    with open_program("--screen-reader") as terminal:
        terminal.wait_for("is loaded. /help lists commands.", _SECONDS)
        yield terminal


def _stored() -> list[tuple[str, str, bool]]:
    history = History()
    record = history.latest()
    assert record is not None
    messages = [(m.role, m.content, m.partial) for m in history.messages(record.id)]
    history.close()
    return messages


def test_answer_comes_in_whole_lines_and_is_kept(reader: Terminal) -> None:
    reader.press("How does it work?\r")
    drawn = reader.read_until("times as fast as plain.", _SECONDS)
    lines = [line for line in drawn.splitlines() if line and line != "You: "]
    assert lines[lines.index("Answer:") + 1] == "# Tree drafting"
    assert "Medusa heads *guess* the next tokens, and the base model **verifies** them in one pass:" in lines
    assert "> Same words, fewer steps." in lines
    assert lines[-1].startswith("Answer finished, ")
    assert not set(drawn) & set("─│╭█━▁")
    reader.press("/quit\r")
    assert reader.wait() == 0
    assert [(role, partial) for role, _, partial in _stored()] == [("user", False), ("assistant", False)]


def test_ctrl_c_stops_an_answer_and_keeps_it_and_ctrl_d_leaves(reader: Terminal) -> None:
    reader.press("endless\r")
    reader.wait_for("Answer:", _SECONDS)
    reader.watch(1)
    reader.press("\x03")
    reader.wait_for("Answer stopped, ", _SECONDS)
    reader.press("which roles\r")
    watch_until(reader, lambda: b"roles: user=endless, assistant=word0" in reader.text)
    watch_until(reader, lambda: reader.text.endswith(b"You: "))
    reader.watch(0.3)
    reader.press("\x04")
    assert reader.wait() == 0
    role, text, partial = _stored()[1]
    assert (role, partial) == ("assistant", True)
    assert text.startswith("word0 word1 ")


def test_ctrl_c_twice_leaves(reader: Terminal) -> None:
    reader.watch(0.5)
    reader.press("\x03")
    reader.wait_for("Ctrl+C again leaves, and so does Ctrl+D.\r\nYou: ", _SECONDS)
    reader.watch(0.3)
    reader.press("\x03")
    assert reader.wait() == 0


def test_commands_and_errors_are_lines(reader: Terminal, tmp_path: Path) -> None:
    for line, answer in (
        ("/help", "/set OPTION VALUE: an exact value"),
        ("/set temperature 9", "Error: Temperature must lie between 0 and 5"),
        ("/set temperature 0.5", "Set: temperature 0.5."),
        ("/plain", "Drafting is off."),
        ("/nonsense", "Error: There is no command /nonsense."),
        ("/rename Tides", "Error: There is nothing in this conversation yet."),
        ("/system Be brief.", "System prompt: Be brief."),
        ("roles", "roles: system=Be brief., user=roles"),
        ("/rename Tides", "Renamed."),
        ("/search tid", "Tides"),
        (f"/export {tmp_path / 'tides.md'}", "Exported to "),
        ("/model no-such-model", "Error: "),
        ("/new", "A new conversation."),
        ("roles", "roles: system=Be brief., user=roles"),
        ("a crash", "Error: The engine ended with status 3."),
        ("roles", "user=a crash, assistant=These words arrived."),
        ("hostile", "[@click=app.quit]quit[/]"),
    ):
        reader.press(f"{line}\r")
        reader.wait_for(answer, _SECONDS)
    assert "roles: system=Be brief." in (tmp_path / "tides.md").read_text(encoding="utf-8")


def test_every_command_is_followed_or_said_to_need_the_screen(reader: Terminal) -> None:
    for command in COMMANDS:
        if command.name != "quit":
            reader.press(f"/{command.name}\r")
    reader.press("roles\r")
    assert "This should not have happened" not in reader.read_until("roles: user=roles", _SECONDS)


def test_continue_reads_out_the_end_of_the_last_conversation() -> None:
    history = History()
    conversation = history.create("m")
    history.add(conversation, "user", "What are tides?")
    history.add(conversation, "assistant", "Water that\x1b[31m rises", partial=True)
    history.close()
    with open_program("--screen-reader", "--continue") as terminal:
        terminal.wait_for("Answer: Water that[31m rises\r\nThis answer was not finished.", _SECONDS)
        terminal.press("go on, roles\r")
        terminal.wait_for("roles: user=What are tides?, assistant=Water that[31m rises", _SECONDS)


def test_sentences() -> None:
    text = "One. Two is 1.5 long! (Three?) 1. Four\n\n```\na. b. c\n```\nrest without end"
    for step in (1, 5, 100):
        stream = SentenceStream()
        pieces = [text[start : start + step] for start in range(0, len(text), step)]
        lines = [line for piece in pieces for line in stream.feed(piece)]
        assert "".join((*lines, *stream.rest())).replace(" ", "") == text.replace(" ", "").replace("\n", "")
        assert "a. b. c" in lines
    stream = SentenceStream()
    assert list(stream.feed("One. Two is 1.5 long! (Three?) 1. Four")) == [
        "One.",
        "Two is 1.5 long!",
        "(Three?)",
    ]
    assert list(stream.rest()) == ["1. Four"]
