"""The program and its engine, ended by force in mid-reply: what has been said stays."""

from __future__ import annotations

import os
import re
import signal

import psutil
import pytest

from medusa_chat.bench.terminal import Terminal
from medusa_chat.history import History
from tests.app.program import open_program, watch_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
_SECONDS = 30
_WORDS_A_SECOND = 85  # of the script "endless"


def _stream(terminal: Terminal, seconds: float) -> int:
    """Until a reply has streamed for so long: the number of the last word drawn."""
    terminal.wait_for("Ctrl+O opens", _SECONDS)
    terminal.press("endless\r")
    drawn = terminal.read_until("word9", _SECONDS)
    terminal.watch(seconds)
    drawn += terminal.text.decode(errors="replace")
    return max(int(number) for number in re.findall(r"word(\d+) ", drawn))


def _engine(terminal: Terminal) -> psutil.Process:
    (engine,) = _children(terminal)
    return engine


def _children(terminal: Terminal) -> list[psutil.Process]:
    return psutil.Process(terminal.process.pid).children()


def _stored_reply() -> tuple[str, bool]:
    history = History()
    record = history.latest()
    assert record is not None
    reply = history.messages(record.id)[1]
    history.close()
    return reply.content, reply.partial


def _last_reply() -> str:
    """From the disk: the screen may show its end only."""
    history = History()
    record = history.latest()
    replies = [message.content for message in history.messages(record.id)] if record else [""]
    history.close()
    return replies[-1]


def _assert_ends(process: psutil.Process, seconds: float = _SECONDS) -> None:
    _, alive = psutil.wait_procs([process], timeout=seconds)
    assert not alive


@pytest.mark.parametrize("seconds", [0.1, 1.7])
def test_killed_program_loses_a_second_at_most_and_goes_on(seconds: float) -> None:
    with open_program() as terminal:
        num_drawn = _stream(terminal, seconds)
        engine = _engine(terminal)
        terminal.kill()
    _assert_ends(engine)
    text, is_partial = _stored_reply() if seconds >= 1 else ("", True)
    assert is_partial
    assert text.count("word") >= num_drawn - _WORDS_A_SECOND
    with open_program("--continue") as terminal:
        terminal.wait_for("not finished" if seconds >= 1 else "endless", _SECONDS)
        terminal.press("roles\r")
        watch_until(terminal, lambda: _last_reply().startswith("roles: user=endless"))


def test_engine_ends_with_a_program_that_is_killed_while_it_loads() -> None:
    with open_program(SCRIPTED_LOAD_SECONDS="240") as terminal:
        terminal.wait_for("reading weights", _SECONDS)
        engine = _engine(terminal)
        terminal.kill()
    _assert_ends(engine, seconds=20)  # a word to a parent that is gone would end it after a minute only


def test_killed_engine_is_told_and_started_again() -> None:
    with open_program() as terminal:
        num_drawn = _stream(terminal, 1.5)
        _engine(terminal).kill()
        terminal.wait_for("broken off", _SECONDS)
        terminal.press("roles\r")
        watch_until(terminal, lambda: _last_reply().startswith("roles: user=endless, assistant=word0"))
    text, is_partial = _stored_reply()
    assert is_partial
    assert text.count("word") >= num_drawn


def test_an_interrupt_from_outside_loses_nothing_and_is_told_by_the_status() -> None:
    with open_program() as terminal:
        num_drawn = _stream(terminal, 0.4)
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait(_SECONDS)
        assert terminal.process.returncode == 130
    text, is_partial = _stored_reply()
    assert is_partial
    assert text.count("word") >= num_drawn


def test_engine_killed_while_nothing_is_under_way_is_told_and_started_again_at_once() -> None:
    with open_program() as terminal:
        terminal.wait_for("Ctrl+O opens", _SECONDS)
        killed = _engine(terminal)
        killed.kill()
        terminal.wait_for("SIGKILL", _SECONDS)
        watch_until(terminal, lambda: [child for child in _children(terminal) if child != killed])
        terminal.press("roles\r")
        watch_until(terminal, lambda: _last_reply() == "roles: user=roles")


def test_reader_asks_again_what_met_a_killed_engine() -> None:
    with open_program("--screen-reader") as terminal:
        terminal.wait_for("is loaded.", _SECONDS)
        _engine(terminal).kill()
        terminal.press("roles\r")
        drawn = terminal.read_until("roles: user=roles", _SECONDS)
        assert "SIGKILL" in drawn
        assert "It is started again" in drawn
        terminal.press("silent-crash\r")
        watch_until(terminal, lambda: terminal.text.count(b"is loaded.") == 2)  # and no third time
        terminal.press("roles\r")
        watch_until(terminal, lambda: b"user=silent-crash" in terminal.text)
        assert terminal.text.count(b"It is started again") == 2


@pytest.mark.parametrize("how", ["hang up", "SIGTERM"])
@pytest.mark.parametrize("options", [(), ("--screen-reader",)])
def test_closed_terminal_and_polite_kill_lose_nothing(how: str, options: tuple[str, ...]) -> None:
    with open_program(*options) as terminal:
        if options:
            terminal.wait_for("is loaded.", _SECONDS)
            terminal.press("endless\r")
            terminal.wait_for("Answer:", _SECONDS)
            terminal.watch(1.0)
            num_drawn = 0
        else:
            num_drawn = _stream(terminal, 0.4)
        engine = _engine(terminal)
        if how == "hang up":
            terminal.hang_up()
        else:
            terminal.process.send_signal(signal.SIGTERM)
        terminal.wait(_SECONDS)
        if how == "SIGTERM":
            assert terminal.process.returncode == 128 + signal.SIGTERM
    _assert_ends(engine)
    text, is_partial = _stored_reply()
    assert is_partial
    assert text.count("word") >= max(num_drawn, 20)
