"""The main screens as they were when somebody last looked at them.

After a change that is meant: RENEW_SNAPSHOTS=1 python -m pytest tests/app/test_snapshots.py, then look at the
diff before it is committed. The scripted engine gives the same figures each time; what else varies is frozen
in _frozen.
"""

from __future__ import annotations

import pytest

from medusa_chat.app.exchange import Exchange
from medusa_chat.app.models import screen as models_screen
from medusa_chat.history import History
from medusa_chat.machine import Memory
from medusa_chat.settings import Settings
from tests.app.conftest import Chat, OpenChat
from tests.app.snapshots import assert_pictured

_MEMORY = Memory("cuda", "A graphics card", 12_000_000_000, 11_000_000_000, 2)


async def _frozen(chat: Chat) -> None:
    chat.app.prompt.cursor_blink = False
    chat.app.talk.meter.first_token_seconds = 0.1
    chat.app.talk.post_message(Exchange.Measured())
    await chat.settle()
    await chat.pilot.pause(0.1)  # what is drawn a frame later


@pytest.mark.parametrize(
    ("name", "size", "theme"),
    [
        ("chat-120x40-dark", (120, 40), "textual-dark"),
        ("chat-120x40-light", (120, 40), "textual-light"),
        ("chat-80x24-dark", (80, 24), "textual-dark"),
        ("chat-80x24-light", (80, 24), "textual-light"),
    ],
)
async def test_chat(name: str, size: tuple[int, int], theme: str, open_chat: OpenChat) -> None:
    async with open_chat(size=size, settings=Settings(theme=theme)) as chat:
        await chat.send("How does drafting work?")
        await chat.answered()
        await _frozen(chat)
        assert_pictured(chat.app, name)


@pytest.mark.parametrize(
    ("name", "keys", "there"),
    [
        ("origins", ("f10",), "**verifies**"),
        ("message-selected", ("ctrl+up",), "Copy"),
        ("settings", ("ctrl+s",), "differs from default"),
        ("help", ("f1",), "Ctrl+J"),
        ("race", ("f12",), "as fast"),
        ("models", ("ctrl+l",), "whole"),
        ("completion", ("/", "s"), "find conversations"),
    ],
)
async def test_what_keys_open(
    name: str, keys: tuple[str, ...], there: str, open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_screen, "find_memory", lambda device, dtype: _MEMORY)
    async with open_chat(size=(100, 32)) as chat:
        await chat.send("How does drafting work?")
        await chat.answered()
        await chat.press(*keys)
        await chat.until(lambda: there in chat.screen())
        await _frozen(chat)
        assert_pictured(chat.app, name)


async def test_conversations_beside_the_chat(open_chat: OpenChat) -> None:
    history = History()
    for title in ("Tides and the moon", "A haiku about rain"):
        history.rename(history.create("smollm2-135m"), title)
    async with open_chat(size=(150, 32), history=history) as chat:
        await chat.press("ctrl+o")
        await chat.until(lambda: "A haiku about rain" in chat.screen())
        await _frozen(chat)
        assert_pictured(chat.app, "conversations")
