"""The main screens as they were when somebody last looked at them.

After a change that is meant: RENEW_SNAPSHOTS=1 python -m pytest tests/app/test_snapshots.py, then look at the
diff before it is committed. The scripted engine gives the same figures each time; what else varies is frozen
in _frozen.
"""

from __future__ import annotations

from medusa_chat.app.exchange import Exchange
from tests.app.conftest import Chat, OpenChat
from tests.app.snapshots import assert_pictured


async def _frozen(chat: Chat) -> None:
    chat.app.prompt.cursor_blink = False
    chat.app.talk.meter.first_token_seconds = 0.1
    chat.app.talk.post_message(Exchange.Measured())
    await chat.settle()
    await chat.pilot.pause(0.3)  # what is drawn a frame later


async def test_chat_wide_and_dark(open_chat: OpenChat) -> None:
    async with open_chat(size=(120, 40)) as chat:
        await chat.send("How does drafting work?")
        await chat.answered()
        await _frozen(chat)
        assert_pictured(chat.app, "chat-120x40-dark")
