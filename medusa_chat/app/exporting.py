"""Writing a conversation into a file of the user's."""

from __future__ import annotations

from pathlib import Path

from medusa_chat.history import History
from medusa_chat.history.export import ENDINGS, ExportFormat, as_document, file_name, write_new, write_vacant


def export_beside(history: History, conversation_id: int, form: ExportFormat) -> Path:
    """Into the working folder, under a name from the title that nothing has yet. Raises HistoryError."""
    record = history.conversation(conversation_id)
    document = as_document(form, record, history.all_messages(conversation_id))
    return write_vacant(Path.cwd() / file_name(record, form), document)


def export_to(history: History, conversation_id: int, target: str) -> Path:
    """Into a file that isn't there yet: JSON if it is named .json, else Markdown. Raises HistoryError."""
    path = Path(target).expanduser().absolute()
    form: ExportFormat = "json" if path.suffix.lower() == ENDINGS["json"] else "markdown"
    record = history.conversation(conversation_id)
    write_new(path, as_document(form, record, history.all_messages(conversation_id)))
    return path
