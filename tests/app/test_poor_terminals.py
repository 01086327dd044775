"""Terminals without Unicode, without colours, or that send bytes which are no letters."""

from __future__ import annotations

import io
import os

import pytest

from medusa_chat.app.plain_letters import use_plain_letters
from medusa_chat.history import History
from tests.app.program import open_program, watch_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
_SECONDS = 30
_READY, _READY_IN_LINES = "Ctrl+O opens", "is loaded."
_LOCALE_C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
_DRAWINGS = set("─━│╭╮╰╯┼▌▁█■●•…")


def _questions() -> list[str]:
    history = History()
    asked = history.questions(9)
    history.close()
    return list(asked)


@pytest.mark.parametrize(
    ("environment", "draws"),
    [
        ({"TERM": "no-such-terminal", "LC_ALL": ""}, True),
        ({"NO_COLOR": "1", "LC_ALL": ""}, True),
        ({"TERM": "vt100"}, False),
        ({"TERM": "linux"}, False),
        ({"LC_ALL": "C"}, False),
        (_LOCALE_C, False),
        ({**_LOCALE_C, "TERM": "vt100", "NO_COLOR": "1"}, False),
        ({"PYTHONIOENCODING": "latin-1"}, False),
    ],
)
def test_chat_is_drawn_with_what_the_terminal_has(environment: dict[str, str], draws: bool) -> None:
    with open_program(**environment) as terminal:
        drawn = terminal.read_until(_READY, _SECONDS)
        terminal.press("hello\r")
        drawn += terminal.read_until("Same words, fewer steps.", _SECONDS)
        assert bool(set(drawn) & _DRAWINGS) is draws
        assert draws or "+-----" in drawn
        assert "\\u" not in drawn
        terminal.press("\x11")
        assert terminal.wait() == 0


def _written(letters: str, encoding: str) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    use_plain_letters(stream)
    stream.write(letters)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("environment", "encoding", "written"),
    [
        ({}, "ascii", "+-+|#_ . x ??? # > <> ??"),
        ({}, "latin-1", "+-+|#_ . × ??é # > <> ??"),
        ({}, "utf-8", "╭─╮│█▁ … × 漢é ■ 🔎 ←→ 👩‍💻"),
        ({"TERM": "linux"}, "utf-8", "+-+|#_ . x 漢é # > <> 👩‍💻"),
        ({"TERM": "vt220"}, "latin-1", "+-+|#_ . x ??é # > <> ??"),
        ({"TERM": "vte"}, "utf-8", "╭─╮│█▁ … × 漢é ■ 🔎 ←→ 👩‍💻"),
        ({"LC_ALL": "POSIX"}, "utf-8", "+-+|#_ . x 漢é # > <> 👩‍💻"),
    ],
)
def test_letters_in_place_of_others_are_as_wide(
    environment: dict[str, str], encoding: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TERM", "LC_ALL"):
        monkeypatch.setenv(name, environment.get(name, ""))
    got = _written("╭─╮│█▁ … × 漢é ■ 🔎 ←→ 👩‍💻", encoding)
    assert got.split() == written.split()


def test_bytes_that_are_no_letters_are_marks_and_end_nothing() -> None:
    with open_program() as terminal:
        terminal.wait_for(_READY, _SECONDS)
        terminal.press("caf\udce9 é roles\r")
        watch_until(terminal, _questions)
        terminal.wait_for("roles: user=caf", _SECONDS)
        terminal.press("\x11")
        assert terminal.wait() == 0
    assert _questions() == ["caf\ufffd é roles"]


@pytest.mark.parametrize(
    ("environment", "typed", "options"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, "caf\udce9 roles", ()),
        (_LOCALE_C, "café 漢 roles", ()),
        (_LOCALE_C, "café 漢 roles", ("--screen-reader",)),
    ],
)
def test_letters_that_cannot_be_shown_are_kept_as_they_were_typed(
    environment: dict[str, str], typed: str, options: tuple[str, ...]
) -> None:
    with open_program(*options, **environment) as terminal:
        terminal.wait_for(_READY_IN_LINES if options else _READY, _SECONDS)
        terminal.watch(0.3)
        terminal.press(f"{typed}\r")
        watch_until(terminal, lambda: b"roles: user=caf" in terminal.text)
    assert _questions() == [typed.replace("\udce9", "é")]


def test_reader_mode_has_letters_for_what_the_terminal_lacks() -> None:
    with open_program("--screen-reader", PYTHONIOENCODING="ascii") as terminal:
        terminal.wait_for(_READY_IN_LINES, _SECONDS)
        terminal.press("hostile\r")
        drawn = terminal.read_until("Answer finished", _SECONDS)
        assert drawn.isascii()


def test_path_that_the_locale_has_no_bytes_for_completes_to_nothing() -> None:
    with open_program(**_LOCALE_C) as terminal:
        terminal.wait_for(_READY, _SECONDS)
        terminal.press("see @é/")
        terminal.watch(0.5)
        terminal.press(" roles\r")
        terminal.wait_for("roles: user=see", _SECONDS)
    assert _questions() == ["see @é/ roles"]
