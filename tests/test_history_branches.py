"""Branches in the database, and what was typed and not sent."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medusa_chat.errors import ConversationNotFound
from medusa_chat.history import BEGINNING, History, schema
from medusa_chat.history.export import as_document


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "history.db"


@pytest.fixture
def store(path: Path) -> History:
    return History(path)


@pytest.fixture
def talk(store: History) -> int:
    """A question with two answers, the first of which led on; then another question in its place."""
    conversation = store.create("m")
    question = store.add(conversation, "user", "Why are there tides?")
    first = store.add(conversation, "assistant", "The moon pulls.")
    store.add(conversation, "user", "And the sun?")
    store.add(conversation, "assistant", "Less, being far away.", parent_id=question)
    store.add(conversation, "user", "Why is there wind?", parent_id=BEGINNING)
    store.set_leaf(conversation, first)
    return conversation


def texts(store: History, conversation: int) -> list[str]:
    return [message.content for message in store.messages(conversation)]


def test_the_branch_on_the_screen_is_kept_and_the_others_too(store: History, talk: int, path: Path) -> None:
    assert [(m.id, m.parent_id) for m in store.all_messages(talk)] == [
        (1, None),
        (2, 1),
        (3, 2),
        (4, 1),
        (5, None),
    ]
    again = History(path)
    assert texts(again, talk) == ["Why are there tides?", "The moon pulls."]
    again.set_leaf(talk, 4)
    assert texts(again, talk) == ["Why are there tides?", "Less, being far away."]
    assert again.conversation(talk).leaf_id == 4
    again.add(talk, "user", "Thanks")
    assert texts(again, talk) == ["Why are there tides?", "Less, being far away.", "Thanks"]
    again.add(talk, "assistant", "Air flows.", parent_id=5)
    assert texts(again, talk) == ["Why is there wind?", "Air flows."]


def test_a_message_of_another_conversation_is_no_parent_and_no_leaf(store: History, talk: int) -> None:
    other = store.create("m")
    message = store.add(other, "user", "elsewhere")
    for parent in (message, 99):
        with pytest.raises(ConversationNotFound, match=f"Conversation {talk} has no message {parent}"):
            store.add(talk, "user", "lost", parent_id=parent)
        with pytest.raises(ConversationNotFound):
            store.set_leaf(talk, parent)
    assert len(store.all_messages(talk)) == 5
    assert texts(store, talk) == ["Why are there tides?", "The moon pulls."]
    with pytest.raises(sqlite3.IntegrityError):  # a cycle would never end
        store._open().execute("UPDATE message SET parent_id = 4 WHERE id = 1")


def test_a_database_of_the_second_version_is_migrated(path: Path) -> None:
    path.parent.mkdir()
    db = sqlite3.connect(path)
    for migration in schema.MIGRATIONS[:2]:
        for statement in migration:
            db.execute(statement)
    db.execute("PRAGMA user_version = 2")
    for id in (3, 8):
        db.execute("INSERT INTO conversation(id, model, created_at, updated_at) VALUES (?, 'm', 1, 1)", (id,))
    said = [
        (3, "user", "tides"),
        (8, "user", "wind"),
        (3, "assistant", "moon"),
        (3, "user", "sun"),
        (8, "user", "air"),
    ]
    for conversation, role, content in said:
        db.execute(
            "INSERT INTO message(conversation_id, role, content, created_at) VALUES (?, ?, ?, 1)",
            (conversation, role, content),
        )
    db.commit()
    db.close()
    store = History(path)
    assert [(m.id, m.parent_id) for m in store.all_messages(3)] == [(1, None), (3, 1), (4, 3)]
    assert [(m.id, m.parent_id) for m in store.all_messages(8)] == [(2, None), (5, 2)]
    assert texts(store, 3) == ["tides", "moon", "sun"]
    record = store.conversation(3)
    assert (record.leaf_id, record.options, store.draft(3)) == (None, None, "")
    assert [hit.message_id for hit in store.search("moon")] == [3]
    store.add(3, "assistant", "far")
    store.add(3, "assistant", "star", parent_id=1)
    assert texts(store, 3) == ["tides", "star"]
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_search_finds_what_is_on_no_screen(store: History, talk: int) -> None:
    for words, message in (("sun", 3), ("far away", 4), ("wind", 5)):
        (hit,) = store.search(words)
        assert (hit.conversation.id, hit.message_id) == (talk, message)


def test_alternatives_do_not_name_the_conversation(store: History) -> None:
    conversation = store.create("m")
    question = store.add(conversation, "user", "```\nprint(1)\n```")
    store.add(conversation, "assistant", "It prints one.")
    store.add(conversation, "assistant", "Nothing to speak of.", parent_id=question)
    store.add(conversation, "user", "Why is there wind?", parent_id=BEGINNING)
    assert store.conversation(conversation).title == "It prints one"


def test_options_are_kept_as_they_are(store: History, talk: int) -> None:
    store.set_options(talk, '{"temperature": 0.7}')
    assert [record.options for record in (store.conversation(talk), *store.list())] == [
        '{"temperature": 0.7}'
    ] * 2
    store.set_options(talk, None)
    assert store.conversation(talk).options is None
    with pytest.raises(ConversationNotFound):
        store.set_options(99, "{}")


def test_a_deletion_takes_all_along_and_its_undo_brings_all_back(
    store: History, talk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_options(talk, "{}")
    store.save_draft(talk, "half a")
    store.save_draft(None, "of no conversation")
    before = store.conversation(talk), store.all_messages(talk), store.messages(talk)
    store.delete(talk)
    assert store.search("sun") == ()
    store.restore()
    assert (store.conversation(talk), store.all_messages(talk), store.messages(talk)) == before
    assert store.draft(talk) == "half a"
    store.delete(talk)
    monkeypatch.setattr("medusa_chat.history.store.SECONDS_TO_UNDO", -1)
    store.purge()
    assert store.all_messages(talk) == ()
    assert store._open().execute("SELECT content FROM draft").fetchall() == [("of no conversation",)]
    with pytest.raises(ConversationNotFound):
        store.set_leaf(talk, 1)


def test_drafts(store: History, talk: int, path: Path) -> None:
    other = store.create("m")
    assert [store.draft(id) for id in (None, talk, other)] == ["", "", ""]
    for id, text in (
        (None, "new"),
        (talk, "first"),
        (None, "newer\n\tlines"),
        (talk, "second\x1b[31m\udcff"),
    ):
        store.save_draft(id, text)
    again = History(path)
    assert [again.draft(id) for id in (None, talk, other)] == ["newer\n\tlines", "second[31m", ""]
    for id in (None, talk):
        again.save_draft(id, "")
        again.save_draft(id, "")
    assert [again.draft(id) for id in (None, talk)] == ["", ""]
    with pytest.raises(ConversationNotFound, match="There is no conversation 99 any more"):
        again.save_draft(99, "lost")
    assert again.draft(99) == ""


def test_questions_come_newest_first_without_repeats(store: History, talk: int) -> None:
    other = store.create("m")
    for text in ("Why is there wind?", "rain?", "rain?"):
        store.add(other, "user", text)
    store.add(other, "assistant", "An answer")
    assert store.questions(3) == ("rain?", "Why is there wind?", "And the sun?")
    assert store.questions(9) == ("rain?", "Why is there wind?", "And the sun?", "Why are there tides?")
    store.delete(other)
    assert store.questions(2) == ("Why is there wind?", "And the sun?")
    assert store.questions(0) == ()


def test_export_holds_the_branch_and_json_all(store: History, talk: int) -> None:
    store.set_leaf(talk, 3)
    record, messages = store.conversation(talk), store.all_messages(talk)
    headings = [
        line for line in as_document("markdown", record, messages).splitlines() if line.startswith("## ")
    ]
    assert headings == ["## You (1 of 2)", "## Assistant (1 of 2)", "## You"]
    document = json.loads(as_document("json", record, messages))
    assert [message["content"] for message in document["messages"]] == texts(store, talk)
    rebuilt = {
        m["id"]: (m["parent_id"], m["content"]) for m in document["messages"] + document["alternatives"]
    }
    assert rebuilt == {m.id: (m.parent_id, m.content) for m in messages}
    assert [message["id"] for message in document["alternatives"]] == [4, 5]


_STREAM = """
import sys, time
from pathlib import Path
from medusa_chat.history import History
store = History(Path(sys.argv[1]))
conversation = store.create("m")
store.add(conversation, "user", "count")
reply, text = store.add(conversation, "assistant", "", partial=True), ""
for number in range(10_000):
    text += f"{number} "
    store.update(reply, text, partial=True)
    print(number, flush=True)
    time.sleep(0.05)
"""


@pytest.mark.parametrize("seconds", [0.0, 0.013, 0.031, 0.05])
def test_a_kill_in_mid_stream_loses_the_last_update_at_most(path: Path, seconds: float) -> None:
    command = [sys.executable, "-c", _STREAM, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(8)]
        time.sleep(seconds)  # anywhere between two updates, or in one
        writer.send_signal(signal.SIGKILL)
        told += writer.stdout.readlines()
    store = History(path)
    (record,) = store.list()
    question, reply = store.messages(record.id)
    assert (question.content, reply.parent_id, reply.partial) == ("count", question.id, True)
    kept = [int(word) for word in reply.content.split()]
    assert kept == list(range(len(kept)))
    assert kept[-1] >= int(told[-1])
    store.add(record.id, "user", "go on")
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchall() == [("ok",)]
