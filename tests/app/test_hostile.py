"""Terminals, files and text that mean no good; the program in a pseudo-terminal."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys

import psutil
import pytest
from textual import events

from medusa_chat import paths
from medusa_chat.app.paste_parser import PasteParser
from medusa_chat.bench.scripted_engine import FLOOD_BYTES
from medusa_chat.bench.terminal import Terminal
from medusa_chat.commands.scripted_chat import PROGRAM
from medusa_chat.history import History
from tests.app.conftest import OpenChat
from tests.app.program import open_program, watch_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
_SECONDS = 30
_READY = "Ctrl+O opens"
_MOST_MEMORY = 500e6


def _cli(*arguments: str, **environment: str) -> Terminal:
    return Terminal((sys.executable, "-m", "medusa_chat.cli", *arguments), environment)


def _stored() -> list[tuple[str, str, bool]]:
    history = History()
    record = history.latest()
    messages = history.messages(record.id) if record else ()
    history.close()
    return [(message.role, message.content, message.partial) for message in messages]


# What the program finds


@pytest.mark.parametrize(
    ("content", "said"), [("theme = \n", "line 1"), ('[sampling]\ntemprature = "x"\n', "sampling.temprature")]
)
def test_broken_config_is_one_sentence_that_names_the_place(content: str, said: str) -> None:
    file = paths.config_dir() / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with _cli() as terminal:
        assert terminal.wait(_SECONDS) == 2
        line = terminal.text.decode()
    assert said in line
    assert str(file) in line.replace("\r\n", "")
    assert "Traceback" not in line


def _make_newer() -> None:
    History().list()
    database = sqlite3.connect(paths.data_dir() / "history.db")
    database.execute("PRAGMA user_version = 99")
    database.close()


def _make_corrupt() -> None:
    paths.data_dir().mkdir(parents=True)
    (paths.data_dir() / "history.db").write_bytes(b"no database at all " * 999)


def _make_folder_impossible() -> None:
    paths.data_dir().parent.mkdir(parents=True)
    paths.data_dir().write_text("a file in the way")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_make_newer, "newer"),
        (_make_corrupt, "is damaged"),
        (_make_folder_impossible, "not being saved"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--screen-reader",)])
def test_history_that_cannot_be_used_is_told_and_the_chat_goes_on(
    spoil: object, said: str, options: tuple[str, ...]
) -> None:
    assert callable(spoil)
    spoil()
    with open_program(*options) as terminal:
        watch_until(terminal, lambda: b"loaded" in terminal.text or _READY.encode() in terminal.text)
        terminal.press("roles\r")
        drawn = terminal.read_until("roles: user=roles", _SECONDS)
        terminal.watch(0.5)
        words = " ".join((drawn + terminal.text.decode()).split())
        assert said in words
        assert "Traceback" not in words


# Terminals


def test_resized_to_nothing_and_back_while_a_reply_streams() -> None:
    with open_program() as terminal:
        terminal.wait_for(_READY, _SECONDS)
        terminal.press("endless\r")
        terminal.wait_for("word20", _SECONDS)
        for size in ((20, 5), (1, 1), (300, 80), (20, 5), (100, 30)):
            terminal.resize(*size)
            terminal.watch(0.3)
        terminal.wait_for("word", _SECONDS)
        terminal.press("\x1b")
        terminal.wait_for("stopped", _SECONDS)
        terminal.press("roles\r")
        terminal.wait_for("user=roles", _SECONDS)
        terminal.press("\x11")
        assert terminal.wait() == 0
    text = _stored()[1][1]
    assert text == "".join(f"word{number} " for number in range(len(text.split())))


# Text


def test_pasted_control_characters_never_reach_the_terminal() -> None:
    with open_program() as terminal:
        terminal.wait_for(_READY, _SECONDS)
        terminal.press("\x1b[200~one\x1b]0;title\x07\x1b[31m\x1b[A\x11\rtwo\x9b2J\x1b\u202e roles\x1b[201~")
        terminal.watch(0.5)
        assert not _stored()
        terminal.press("\r")
        watch_until(terminal, lambda: len(_stored()) == 2 and not _stored()[1][2])
        assert not set(terminal.text.decode()) & set("\x07\x9b\u202e")
    assert _stored()[0] == ("user", "one]0;title[31m[A\ntwo2J roles", False)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_pastes_are_whole_however_they_arrive(size: int) -> None:
    typed = "a\x1b[200~one\x1b[31m \x1b[201\x1b\x1b[201~b\x1b[A\x1b[200~\x1b\x1b[201~c"
    parser = PasteParser()
    pieces = [typed[start : start + size] for start in range(0, len(typed), size)]
    events_ = [event for piece in pieces for event in parser.feed(piece)]
    seen = [event.text if isinstance(event, events.Paste) else event.key for event in events_]  # type: ignore[attr-defined]
    assert seen == ["a", "one[31m [201", "b", "up", "", "c"]


def test_escape_is_not_held_back_as_if_a_paste_began() -> None:
    parser = PasteParser()
    assert list(parser.feed("\x1b")) == []
    assert [event.key for event in parser.feed("\x1b")] == ["escape"]  # type: ignore[attr-defined]


async def test_pasted_escape_sequences_are_letters(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        chat.app.prompt.post_message(events.Paste("a\x1b[31mb\x1b]0;title\x07"))
        await chat.until(lambda: chat.app.prompt.text == "a[31mb]0;title")


def test_megabytes_stay_whole_on_disk_and_small_in_memory() -> None:
    with Terminal(PROGRAM) as terminal:
        terminal.wait_for(_READY, _SECONDS)
        terminal.press("flood\r")
        watch_until(terminal, lambda: (messages := _stored())[1:] and not messages[1][2], 60)
        terminal.press("Ā")
        terminal.wait_for_key("Ā", _SECONDS)
        assert psutil.Process(terminal.process.pid).memory_info().rss < _MOST_MEMORY
        terminal.press("\x11")
        assert terminal.wait() == 0
    text = _stored()[1][1]
    assert len(text) >= FLOOD_BYTES
    numbers = [
        int(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("## Draft number")
    ]
    assert sorted(set(numbers)) == list(range(max(numbers) + 1))


async def test_beginning_of_a_reply_too_long_for_the_screen_leaves_it(open_chat: OpenChat) -> None:
    history = History()
    conversation = history.create("m")
    history.add(conversation, "user", "hello")
    history.add(conversation, "assistant", "".join(f"line {number}\n\n" for number in range(20_000)))
    async with open_chat(resume=True, history=history) as chat:
        await chat.until(lambda: chat.replies and "line 19999" in chat.screen())
        assert "line 0\n" not in chat.replies[0]
        chat.view.scroll_home(animate=False)
        await chat.until(lambda: "too long for the screen" in chat.screen())


def test_output_that_nobody_reads_ends_the_help_quietly() -> None:
    command = f"{sys.executable} -m medusa_chat.cli --help | head -c 1 > /dev/null"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in ended.stderr
