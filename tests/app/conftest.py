"""The app on the scripted engine, over the real child-process protocol."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from textual.pilot import Pilot

from medusa_chat.app import app as app_module
from medusa_chat.app.app import MedusaApp
from medusa_chat.app.chat_view import ChatView
from medusa_chat.app.models.fetching import ToFetch
from medusa_chat.app.reply_text import ReplyText
from medusa_chat.app.turns import Notice, UserTurn
from medusa_chat.engine.process import EngineProcess
from medusa_chat.history import History
from medusa_chat.records import LoadRequest
from medusa_chat.settings import Settings
from tests.app.user import User
from tests.checkpoints.conftest import hub as hub
from tests.checkpoints.conftest import index as index

WORKER = (sys.executable, str(Path(__file__).parent.parent / "scripted_worker.py"))


class Chat(User):
    """What a user sees and does."""

    def __init__(self, app: MedusaApp, pilot: Pilot[None], history: History, engine: EngineProcess) -> None:
        super().__init__(pilot)
        self.engine = engine
        self.app = app
        self.history = history

    async def send(self, text: str) -> None:
        self.app.prompt.insert(text)
        await self.press("enter")

    async def ready(self, seconds: float = 10) -> None:
        await self.until(lambda: self.app.is_ready, seconds)

    async def answered(self, seconds: float = 10) -> None:
        await self.until(lambda: not self.app.is_answering, seconds)

    @property
    def replies(self) -> list[str]:
        return [reply.source for reply in self.app.query(ReplyText)]

    @property
    def questions(self) -> list[str]:
        return [str(turn.content) for turn in self.app.query(UserTurn)]

    @property
    def notices(self) -> list[str]:
        return [str(notice.content) for notice in self.app.query(Notice)]

    @property
    def captions(self) -> list[str]:
        return [str(caption.content) for caption in self.app.query(".caption").results()]

    def panel(self) -> str:
        """The panel's lines."""
        return "\n".join(str(cell.content) for cell in self.app.panel.query("Static").results())

    @property
    def view(self) -> ChatView:
        return self.app.chat


OpenChat = Callable[..., AbstractAsyncContextManager[Chat]]


@pytest.fixture
def open_chat(home: Path, monkeypatch: pytest.MonkeyPatch) -> OpenChat:
    """open_chat(size=…, resume=…, history=…, wait=…, settings=…, request=…, command=…,
    to_fetch=…) -> a running Chat."""

    # Nobody here waits for a first picture.
    monkeypatch.setattr(app_module, "_SECONDS_TO_DRAW", 0.01)

    @asynccontextmanager
    async def opened(
        size: tuple[int, int] = (120, 40),
        resume: bool = False,
        history: History | None = None,
        wait: bool = True,
        settings: Settings | None = None,
        request: LoadRequest | None = None,
        command: Sequence[str] = WORKER,
        to_fetch: ToFetch = lambda request: None,
    ) -> AsyncIterator[Chat]:
        engine = EngineProcess(command=command)
        history = history or History()
        app = MedusaApp(
            settings or Settings(),
            request or LoadRequest("smollm2-135m"),
            engine,
            history,
            resume,
            to_fetch,
        )
        try:
            async with app.run_test(size=size, notifications=True) as pilot:
                chat = Chat(app, pilot, history, engine)
                if wait:
                    await chat.ready()
                yield chat
        finally:
            await engine.close()
            history.close()

    return opened
