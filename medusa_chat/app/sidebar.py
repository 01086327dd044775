"""What keys do to the conversations beside the chat: rename, pin, export, delete, bring back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar

from textual import work
from textual.binding import BindingType
from textual.message import Message

from medusa_chat.app.conversation_list import ConversationList
from medusa_chat.app.exporting import export_beside
from medusa_chat.app.keys import SIDEBAR, bindings
from medusa_chat.app.rename_screen import RenameScreen
from medusa_chat.app.sidebar_rows import conversation_of
from medusa_chat.errors import HistoryError
from medusa_chat.history import ConversationRecord
from medusa_chat.history.export import ExportFormat


class Sidebar(ConversationList):
    """What it does to the history runs in threads, which tell what came of it by messages."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(SIDEBAR)

    class Deleted(Message):
        """A conversation is in the list no more."""

        def __init__(self, record: ConversationRecord) -> None:
            super().__init__()
            self.record = record

    class Restored(Message):
        """A deleted conversation is back."""

        def __init__(self, record: ConversationRecord) -> None:
            super().__init__()
            self.record = record

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Nothing that was typed after the keys had gone back to the prompt."""
        return self.has_focus_within

    def action_rename(self) -> None:
        if (row := self._row) is not None:
            self.rename(conversation_of(row))

    def rename(self, record: ConversationRecord) -> None:
        """Asks for another title."""

        def rename(title: str | None) -> None:
            if title is not None:
                self._do(lambda: self._history.rename(record.id, title), "Renamed.")

        self.app.push_screen(RenameScreen(record.title), rename)

    def action_pin(self) -> None:
        if (row := self._row) is not None:
            record = conversation_of(row)
            done = "Unpinned." if record.pinned else "Pinned."
            self._do(lambda: self._history.pin(record.id, not record.pinned), done)

    def action_delete(self) -> None:
        if (row := self._row) is not None:
            record = conversation_of(row)
            done = f"Deleted “{record.name}”. U brings it back, for a day."
            self._do(lambda: self._history.delete(record.id), done, self.Deleted(record))

    def action_undo(self) -> None:
        self._restore()

    def action_export(self, form: ExportFormat) -> None:
        if (row := self._row) is not None:
            self._export(conversation_of(row).id, form)

    # What they do to the history

    @work(group="history")
    async def _do(self, change: Callable[[], None], done: str, news: Message | None = None) -> None:
        try:
            await asyncio.to_thread(change)
        except HistoryError as error:
            self.post_message(self.Failed(error))
            return
        self.post_message(self.Changed(done))
        if news is not None:
            self.post_message(news)

    @work(group="history")
    async def _restore(self) -> None:
        try:
            record = await asyncio.to_thread(self._history.restore)
        except HistoryError as error:
            self.post_message(self.Failed(error))
            return
        if record is None:
            self.post_message(self.Changed("Nothing was deleted in the last day."))
        else:
            self.post_message(self.Changed(f"“{record.name}” is back.", record.id))
            self.post_message(self.Restored(record))

    @work(group="history")
    async def _export(self, conversation_id: int, form: ExportFormat) -> None:
        try:
            path = await asyncio.to_thread(export_beside, self._history, conversation_id, form)
        except HistoryError as error:
            self.post_message(self.Failed(error))
        else:
            self.post_message(self.Changed(f"Exported to {path}"))
