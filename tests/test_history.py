"""The conversation database."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from medusa_chat.errors import ConversationNotFound, HistoryError
from medusa_chat.history import History, schema
from medusa_chat.history.excerpts import Excerpt, read_excerpt
from medusa_chat.history.titles import title_of


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
    assert (hit.conversation.id, hit.message_id, hit.role) == (conversation, reply, "assistant")
    assert _marked(hit.message) == "They pulse their [bell], as [medusae] do."
    assert _marked(hit.title) == "How do jellyfish swim?"
    assert [hit.role for hit in store.search("jellyfish")] == ["user"]
    assert store.search("jellyfish bell") == ()
    assert store.search("  ") == ()


def test_search_finds_titles_first_and_each_conversation_once(path: Path) -> None:
    store = History(path)
    by_text, by_title, by_both = (store.create("m") for _ in range(3))
    for _ in range(3):
        store.add(by_text, "user", "the sea, the sea")
    store.rename(by_text, "Water")
    store.rename(by_title, "Sea shanties")
    store.rename(by_both, "By the sea")
    store.add(by_both, "user", "What lives in the sea?")
    hits = store.search("sea")
    assert [hit.conversation.id for hit in hits][-1] == by_text
    assert {hit.conversation.id: (_marked(hit.title), _marked(hit.message)) for hit in hits} == {
        by_text: ("Water", "the [sea], the [sea]"),
        by_title: ("[Sea] shanties", ""),
        by_both: ("By the [sea]", "What lives in the [sea]?"),
    }
    assert len(store.search("sea", limit=2)) == 2
    store.rename(by_title, "Shanties")
    assert by_title not in [hit.conversation.id for hit in store.search("sea")]


def test_search_finds_parts_of_sentences_without_spaces(path: Path) -> None:
    store = History(path)
    tides, percent = store.create("m"), store.create("m")
    store.add(tides, "user", "请告诉我潮汐是什么？")
    store.add(tides, "assistant", "潮汐是月球引力引起的海水涨落 (tides)。" + "海" * 200)
    store.add(percent, "user", "100%_海")
    (hit,) = store.search("月球 TIDES")
    assert (hit.conversation.id, hit.role) == (tides, "assistant")
    assert (_marked(hit.message) or "").startswith("潮汐是[月球]引力引起的海水涨落 ([tides])")
    assert _marked(store.search("潮汐")[0].title) == "请告诉我[潮汐]是什么？"
    assert [hit.conversation.id for hit in store.search("%_海")] == [percent]
    assert store.search("水月") == ()


def _marked(excerpt: Excerpt | None) -> str:
    """The excerpt with what matches in brackets."""
    text = excerpt.text if excerpt else ""
    for start, end in reversed(excerpt.matches if excerpt else ()):
        text = f"{text[:start]}[{text[start:end]}]{text[end:]}"
    return text


@pytest.mark.parametrize(
    "query",
    [
        '"',
        '""',
        "a OR",
        "NEAR(",
        "*",
        "^",
        "col:x",
        "title:x",
        "-",
        "'; DROP TABLE message",
        "\0",
        "\udcff",
        "{}",
    ],
)
def test_no_query_is_an_operator(path: Path, query: str) -> None:
    store = History(path)
    store.add(store.create("m"), "user", 'say "or" NEAR( to col:x')
    store.search(query)
    assert len(store.search('"or')) == len(store.search("NEAR(")) == len(store.search("col:x")) == 1


def test_excerpts_are_printable_and_bear_stray_marks() -> None:
    assert read_excerpt("a\x1b[31m \x02b\x07\x03\n\n c") == Excerpt("a[31m b c", ((6, 7),))
    assert read_excerpt("\x03a\x02b") == Excerpt("ab")


@pytest.mark.parametrize(
    ("question", "answer", "title"),
    [
        ("What is a draft tree? Tell me.", "", "What is a draft tree?"),
        ("\n  # Plan *the* `trip`\nto Rome", "", "Plan the trip"),
        ("hi, can you please explain tides.", "", "Explain tides"),
        ("hello", "Hello! How may I help?", "Hello"),
        ("```python\nprint(1)\n```\nWhat does this print?", "", "What does this print?"),
        ("```python\nprint(1)\n```", "It prints 1.", "It prints 1"),
        ("```python\nprint(1)\n```", "# The number one\nIt prints", "The number one"),
        ("```python\nprint(1)\n```", "", "Print(1)"),
        ("word " * 30, "", "Word word word word word word word word word word word word…"),
        ("x" * 80, "", "X" + "x" * 58 + "…"),
        ("[bold]markup\x1b[5m[/bold]", "", "[bold]markup[5m[/bold]"),
        ("snake_case and 2 * 3 * 4 and __init__", "", "Snake_case and 2 * 3 * 4 and __init__"),
        ("潮汐是什么？", "", "潮汐是什么？"),
        ("!!!", "", ""),
        ("", "", ""),
    ],
)
def test_titles(question: str, answer: str, title: str) -> None:
    assert title_of(question, answer) == title


def test_first_exchange_names_the_conversation_unless_the_user_does(path: Path) -> None:
    store = History(path)
    code = "```\nprint(1)\n```"
    by_answer, by_user = store.create("m"), store.create("m")
    for conversation in (by_answer, by_user):
        store.add(conversation, "user", code)
    store.rename(by_user, "  My\x1b[31m\ncode ")
    for conversation in (by_answer, by_user):
        reply = store.add(conversation, "assistant", "It", partial=True)
        store.update(reply, "It prints one.", partial=False)
        store.add(conversation, "user", "And now?")
    assert store.conversation(by_answer).title == "It prints one"
    assert store.conversation(by_user).title == "My[31m code"
    with pytest.raises(HistoryError, match="needs a letter"):
        store.rename(by_user, " \x1b\n")


def test_pinned_ones_come_first_but_are_not_the_latest(path: Path) -> None:
    store = History(path)
    one, two, three = (store.create("m") for _ in range(3))
    store.pin(one, True)
    assert [record.id for record in store.list()] == [one, three, two]
    assert [record.pinned for record in store.list()] == [True, False, False]
    latest = store.latest()
    assert latest is not None
    assert latest.id == three
    store.pin(one, False)
    assert [record.id for record in store.list()] == [three, two, one]


def test_deletions_are_undone_one_after_the_other_until_they_are_purged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = History(path)
    one, two = store.create("m"), store.create("m")
    message = store.add(one, "user", "jellyfish")
    store.delete(one)
    store.delete(two)
    assert store.list() == store.search("jellyfish") == ()
    assert store.latest() is None
    with pytest.raises(ConversationNotFound):
        store.conversation(one)
    with pytest.raises(ConversationNotFound):
        store.delete(one)
    store.purge()
    restored = [store.restore(), store.restore(), store.restore()]
    assert [record and record.id for record in restored] == [two, one, None]
    assert len(store.search("jellyfish")) == 1
    store.delete(one)
    monkeypatch.setattr("medusa_chat.history.store.SECONDS_TO_UNDO", -1)
    store.purge()
    assert store.restore() is None
    assert store.messages(one) == ()
    with pytest.raises(ConversationNotFound):
        store.update(message, "x", partial=False)
    with pytest.raises(ConversationNotFound):
        store.add(one, "user", "x")


def test_a_deleted_conversation_that_is_written_to_is_back(path: Path) -> None:
    store = History(path)
    conversation = store.create("m")
    store.delete(conversation)
    store.add(conversation, "user", "still here")
    assert [record.id for record in store.list()] == [conversation]


@pytest.mark.parametrize("id", [0, -1, 7, 2**63, 10**30])
def test_ids_that_do_not_exist(path: Path, id: int) -> None:
    with pytest.raises(ConversationNotFound, match=f"There is no conversation {id}"):
        History(path).conversation(id)


def test_a_database_of_the_first_version_is_migrated(path: Path) -> None:
    path.parent.mkdir()
    db = sqlite3.connect(path)
    for statement in schema.MIGRATIONS[0]:
        db.execute(statement)
    db.execute("PRAGMA user_version = 1")
    db.execute("INSERT INTO conversation VALUES (5, 'Old\x1b[5m tides', 'm', NULL, 1.0, 2.0)")
    db.execute(
        "INSERT INTO message(conversation_id, role, content, created_at) VALUES (5, 'user', 'moon', 1.0)"
    )
    db.commit()
    db.close()
    store = History(path)
    assert [(record.id, record.title, record.pinned) for record in store.list()] == [
        (5, "Old[5m tides", False)
    ]
    assert [hit.conversation.id for hit in (*store.search("tides"), *store.search("moon"))] == [5, 5]


def test_a_database_of_a_later_version_is_left_alone(path: Path) -> None:
    History(path).list()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(HistoryError, match="newer medusa-chat"):
        History(path).list()


def test_damaged_database_is_kept_aside_and_a_fresh_one_begun(path: Path) -> None:
    path.parent.mkdir()
    damaged = b"This is no database at all, whatever it is called." * 50
    path.write_bytes(damaged)
    store = History(path)
    with pytest.raises(HistoryError, match=r"is damaged\. It is kept as .*, and a fresh one is begun\."):
        store.latest()
    store.create("m")
    assert len(store.list()) == 1
    (aside,) = path.parent.glob("history-damaged-*.db")
    assert aside.read_bytes() == damaged


def test_damage_that_shows_later_is_borne_too(path: Path) -> None:
    store, other = History(path), History(path)
    conversation = store.create("m")
    for _ in range(50):
        store.add(conversation, "user", "words " * 500)
    store.close()
    content = bytearray(path.read_bytes())
    tables = len(content) // 2  # which come after the schema
    content[tables:] = b"\xff" * len(content[tables:])
    path.write_bytes(content)
    for one in (store, other):
        with one._lock:
            one._open()
    for one, sentence in ((store, "It is kept as"), (other, "another medusa-chat has kept it aside")):
        with pytest.raises(HistoryError, match=sentence):
            one.messages(conversation)
        one.create("m")
    assert len(store.list()) == 2


def test_damaged_database_that_cannot_be_renamed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database" * 50)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(HistoryError, match=r"can't be renamed \(Permission denied\)\. Move it away"):
        History(path).list()


def test_full_disk_is_told_and_loses_nothing_saved(path: Path) -> None:
    store = History(path)
    conversation = store.create("m")
    store.add(conversation, "user", "hello")
    assert store._connection is not None
    store._connection.execute("PRAGMA max_page_count = 1")  # SQLite keeps to what the file has now
    with pytest.raises(HistoryError, match=r"the disk is full\. Free some space\."):
        store.add(conversation, "assistant", "much " * 100_000)
    assert [message.content for message in store.messages(conversation)] == ["hello"]
    store._connection.execute("PRAGMA max_page_count = 1000000")
    store.add(conversation, "assistant", "much " * 100_000)


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
        store.purge()
    log_index.rmdir()
    store.purge()
    store.add(conversation, "user", "again")
    assert len(store.messages(conversation)) == 2


def test_database_of_an_earlier_version_that_can_only_be_read(path: Path) -> None:
    store = History(path)
    store._open().execute("PRAGMA user_version = 1")
    store.close()
    path.with_name("history.db-shm").mkdir()
    with pytest.raises(HistoryError, match="from an earlier medusa-chat, and its folder can't be written"):
        store.list()


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
