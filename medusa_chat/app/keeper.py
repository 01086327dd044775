"""Saving what is said, and telling when that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from medusa_chat.app.conversation import Conversation, Recorder
from medusa_chat.errors import ConversationNotFound, DatabaseDamaged, HistoryError
from medusa_chat.history import History

_Key = TypeVar("_Key")
_Read = TypeVar("_Read")


class Say(Protocol):
    """One sentence of the program, for the user."""

    def __call__(self, text: str, *, is_error: bool = False) -> Awaitable[None]: ...


class Keeper:
    """What can't be saved now is saved by a later try; the user is told once of each change."""

    def __init__(self, history: History, say: Say) -> None:
        self._history = history
        self._recorder = Recorder(history)
        self._say = say
        self._fails = False

    async def keep_draft(self, conversation_id: int | None, text: str) -> None:
        """What is typed and not sent, until it is asked for again. None: in a conversation not begun yet."""
        try:
            await asyncio.to_thread(self._history.save_draft, conversation_id, text)
        except ConversationNotFound:  # deleted meanwhile, and its draft with it
            return
        except HistoryError as error:
            await self.tell_failure(error)

    async def draft(self, conversation_id: int | None) -> str:
        """What was typed and not sent."""
        return await self._read(self._history.draft, conversation_id) or ""

    async def questions(self, limit: int) -> tuple[str, ...]:
        """The user's latest messages in all conversations, newest first."""
        return await self._read(self._history.questions, limit) or ()

    async def _read(self, read: Callable[[_Key], _Read], key: _Key) -> _Read | None:
        try:
            return await asyncio.to_thread(read, key)
        except DatabaseDamaged as error:
            await self._say(str(error), is_error=True)
        except HistoryError:
            pass  # told by whoever saves, which fails as well
        return None

    def is_behind(self, conversation: Conversation) -> bool:
        """There is something that isn't on the disk yet."""
        return self._recorder.has_unsaved or not conversation.is_stored

    async def save(self, conversation: Conversation, model: str) -> bool:
        """Whether all is on the disk now."""
        try:
            await self._recorder.save(conversation, model)
        except HistoryError as error:
            await self.tell_failure(error)
            return False
        if self._fails and conversation.turns:
            self._fails = False
            await self._say("The conversation is saved again.")
        return True

    async def tell_failure(self, error: HistoryError) -> None:
        """The history can't be written."""
        if not self._fails:
            self._fails = True
            await self._say(f"This conversation is not being saved. {error}", is_error=True)
