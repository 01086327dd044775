"""The sign at the end of a long reply."""

from __future__ import annotations

import pytest

from medusa_chat.app import notifying
from medusa_chat.app.notifying import Notifier, notification
from tests.app.conftest import OpenChat


@pytest.mark.parametrize(
    ("seconds", "is_focused", "is_wanted", "num_signs"),
    [(11, False, True, 1), (9, False, True, 0), (11, True, True, 0), (11, False, False, 0)],
)
def test_only_a_long_reply_that_nobody_watches_gives_a_sign(
    seconds: float, is_focused: bool, is_wanted: bool, num_signs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    notifier = Notifier(written.append, is_wanted=is_wanted)
    clock = iter([100.0, 100.0 + seconds])
    monkeypatch.setattr(notifying.time, "monotonic", lambda: next(clock))
    notifier.begin()
    notifier.end("Tides", is_focused=is_focused)
    assert len(written) == num_signs


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"TERM": "xterm-256color"}, "\a\x1b]9;medusa-chat: The answer is there: Tides\x1b\\"),
        ({"TERM": "foot"}, "\a\x1b]777;notify;medusa-chat;The answer is there: Tides\x1b\\"),
        ({"TERM_PROGRAM": "WezTerm"}, "\a\x1b]777;notify;medusa-chat;The answer is there: Tides\x1b\\"),
        ({"VTE_VERSION": "7600"}, "\a\x1b]777;notify;medusa-chat;The answer is there: Tides\x1b\\"),
    ],
)
def test_the_terminals_own_sequence(environment: dict[str, str], shown: str) -> None:
    assert notification("Tides", environment) == shown


def test_a_title_cannot_end_the_sequence_or_begin_another() -> None:
    shown = notification("a\x1b\\\x07b;c\n\x9cd" + "x" * 500, {})
    assert shown == "\a\x1b]9;medusa-chat: The answer is there: a\\b,c d" + "x" * 73 + "\x1b\\"
    assert notification("", {}).endswith("The answer is there.\x1b\\")


async def test_the_chat_tells_who_is_looking_elsewhere(
    open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifying, "_SECONDS_WORTH_A_SIGN", 0.0)
    async with open_chat() as chat:
        written: list[str] = []
        monkeypatch.setattr(chat.app._notifier, "_write", written.append)
        await chat.send("roles")
        await chat.until(lambda: chat.replies and not chat.app.is_answering)
        assert written == []
        await chat.send("endless")
        await chat.until(lambda: len(chat.replies) == 2 and chat.replies[1])
        chat.app.app_focus = False  # as a terminal's report has it
        chat.app.talk.stop()
        await chat.until(lambda: written)
        assert "The answer is there: endless" in written[0]
