"""Conversations in SQLite: saved as they happen, found again by full text.

store.py reads and writes them; branches.py has their messages as trees; database.py opens the file and
bears what may be wrong with it.
"""

from __future__ import annotations

from medusa_chat.history.database import Database
from medusa_chat.history.entries import BEGINNING, ConversationRecord, MessageRecord, SearchHit
from medusa_chat.history.excerpts import Excerpt
from medusa_chat.history.store import History

__all__ = [
    "BEGINNING",
    "ConversationRecord",
    "Database",
    "Excerpt",
    "History",
    "MessageRecord",
    "SearchHit",
]
