"""Saving what is said, and telling when that fails."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from medusa_chat.app.conversation import Conversation, Recorder
from medusa_chat.errors import HistoryError
from medusa_chat.history import History


class Say(Protocol):
    """One sentence of the program, for the user."""

    def __call__(self, text: str, *, is_error: bool = False) -> Awaitable[None]: ...


class Keeper:
    """What can't be saved now is saved by a later try; the user is told once of each change."""

    def __init__(self, history: History, say: Say) -> None:
        self._recorder = Recorder(history)
        self._say = say
        self._fails = False

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
