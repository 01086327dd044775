"""The conversation database."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from medusa_chat import history
from medusa_chat.errors import HistoryError
from medusa_chat.history import History


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "history.db"


def test_messages_come_back_in_order_and_name_the_conversation(path: Path) -> None:
    store = History(path)
    first = store.create("model-a", "Be brief.")
    store.add(first, "user", "\n  What is a draft tree?  \nTell me.")
    reply = store.add(first, "assistant", "A", partial=True)
    store.update(reply, "A tree of guesses.", partial=False)
    again = History(path)
    record = again.latest()
    assert record is not None
    assert (record.title, record.model, record.system) == ("What is a draft tree?", "model-a", "Be brief.")
    assert [(m.role, m.content, m.partial) for m in again.messages(first)] == [
        ("user", "\n  What is a draft tree?  \nTell me.", False),
        ("assistant", "A tree of guesses.", False),
    ]


def test_latest_is_the_one_last_written_to(path: Path) -> None:
    store = History(path)
    assert store.latest() is None
    one, two = store.create("m"), store.create("m")
    assert [record.id for record in store.list()] == [two, one]
    message = store.add(two, "assistant", "x", partial=True)
    store.add(one, "user", "hello")
    assert [record.id for record in store.list()] == [one, two]
    store.update(message, "xy", partial=True)
    assert [record.id for record in store.list(limit=1)] == [two]


def test_search_finds_words_and_follows_updates(path: Path) -> None:
    store = History(path)
    conversation = store.create("m")
    store.add(conversation, "user", "How do jellyfish swim?")
    reply = store.add(conversation, "assistant", "They pulse", partial=True)
    store.update(reply, "They pulse their bell, as medusae do.", partial=False)
    (hit,) = store.search("bell medus")
    assert hit.conversation.id == conversation
    assert hit.role == "assistant"
    assert "[bell]" in hit.excerpt
    assert [hit.role for hit in store.search("jellyfish")] == ["user"]
    assert store.search("jellyfish bell") == ()
    assert store.search("  ") == ()


@pytest.mark.parametrize("query", ['"', "a OR", "NEAR(", "*", "col:x", "-", "'; DROP TABLE message"])
def test_no_query_is_an_operator(path: Path, query: str) -> None:
    History(path).search(query)


def test_a_database_of_an_earlier_version_is_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = History(path)
    conversation = store.create("m")
    store.close()
    later = (*history.MIGRATIONS, ("ALTER TABLE conversation ADD COLUMN pinned INTEGER DEFAULT 0",))
    monkeypatch.setattr(history, "MIGRATIONS", later)
    assert [record.id for record in History(path).list()] == [conversation]
    db = sqlite3.connect(path)
    assert db.execute("SELECT pinned FROM conversation").fetchall() == [(0,)]
    assert db.execute("PRAGMA user_version").fetchone() == (len(later),)


def test_a_database_of_a_later_version_is_left_alone(path: Path) -> None:
    History(path).list()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(HistoryError, match="newer medusa-chat"):
        History(path).list()


def test_damaged_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"This is no database at all, whatever it is called." * 50)
    with pytest.raises(HistoryError, match=r"is damaged\. Move it away"):
        History(path).latest()


def test_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(HistoryError, match="can't be opened"):
        History(tmp_path / "file" / "history.db").create("m")


def test_database_that_cannot_be_written(path: Path) -> None:
    store = History(path)
    conversation = store.create("m")
    assert store._connection is not None
    store._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(HistoryError, match="can't be written"):
        store.add(conversation, "user", "hello")
    store.add(conversation, "user", "hello")
    assert len(store.messages(conversation)) == 1


def test_read_only_folder(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o500)
    if os.access(path.parent, os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(HistoryError, match="can't be"):
        History(path).create("m")


def test_database_in_a_read_only_folder_can_be_read_and_later_written(path: Path) -> None:
    store = History(path)
    conversation = store.create("m")
    store.add(conversation, "user", "hello")
    store.close()
    log_index = path.with_name("history.db-shm")
    log_index.mkdir()  # SQLite can't make the files of a write-ahead log, as in a read-only folder
    assert [record.id for record in store.list()] == [conversation]
    assert [message.content for message in store.messages(conversation)] == ["hello"]
    with pytest.raises(HistoryError, match="can't be written"):
        store.check_writable()
    log_index.rmdir()
    store.check_writable()
    store.add(conversation, "user", "again")
    assert len(store.messages(conversation)) == 2


def test_processes_that_start_at_once_share_a_new_database(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from medusa_chat.history import History\n"
        "store = History(Path(sys.argv[1])); conversation = store.create('m')\n"
        "for number in range(50): store.add(conversation, 'user', f'message {number}')\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(4)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0, 0]
    store = History(path)
    assert [len(store.messages(record.id)) for record in store.list()] == [50] * 4
