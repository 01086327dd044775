"""The sidebar and what it does, long conversations, and a history that something is wrong with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from textual.widgets import Input

from medusa_chat import paths
from medusa_chat.app import conversation_list, sidebar
from medusa_chat.app.ages import age
from medusa_chat.app.turns import AssistantTurn, UserTurn
from medusa_chat.history import History
from tests.app.conftest import Chat, OpenChat

WIDE = (140, 40)
DAY = 86400


@pytest.fixture
def tales() -> History:
    """Three conversations, with ids 1 to 3; the last is the latest."""
    history = History()
    for question, answer in (
        ("Why are there tides?", "The *moon* pulls the sea."),
        ("What do jellyfish eat?", "Plankton, which drifts in the sea."),
        ("Plan a trip to Rome", "# Rome\n\nTake the night train."),
    ):
        conversation = history.create("m")
        history.add(conversation, "user", question)
        history.add(conversation, "assistant", answer)
    return history


def rows(chat: Chat) -> list[str]:
    """The sidebar's entries, each in one line."""
    options = chat.app.sidebar.titles.options
    return [" ".join(str(option.prompt).split()) for option in options]


async def listed(chat: Chat, *begins: str) -> None:
    """Waits for the sidebar to hold just these entries."""
    await chat.until(
        lambda: (
            len(rows(chat)) == len(begins)
            and all(row.startswith(begin) for row, begin in zip(rows(chat), begins, strict=True))
        )
    )


async def test_sidebar_is_beside_the_chat_where_there_is_room_and_folds_away(
    open_chat: OpenChat, tales: History
) -> None:
    async with open_chat(size=WIDE, history=tales) as chat:
        await listed(chat, "Plan a trip to Rome", "What do jellyfish eat?", "Why are there tides?")
        assert "Plan a trip to Rome" in chat.screen()
        assert chat.app.prompt.has_focus
        await chat.pilot.resize_terminal(100, 30)
        await chat.until(lambda: "Plan a trip" not in chat.screen())
        await chat.press("ctrl+o")
        await chat.until(lambda: "Plan a trip to Rome" in chat.screen())
        await chat.press("escape")
        await chat.until(lambda: "Plan a trip" not in chat.screen())
        assert chat.app.prompt.has_focus
        await chat.pilot.resize_terminal(*WIDE)
        await chat.until(lambda: "Plan a trip" in chat.screen())
        await chat.press("ctrl+o", "ctrl+o")
        await chat.until(lambda: "Plan a trip" not in chat.screen())
        assert chat.app.prompt.has_focus


async def test_open_shows_a_conversation_and_goes_on_with_it(open_chat: OpenChat, tales: History) -> None:
    async with open_chat(size=(80, 24), history=tales) as chat:
        await chat.press("ctrl+o")
        await listed(chat, "Plan", "What", "Why")
        await chat.press("down", "down", "enter")
        await chat.until(lambda: chat.questions == ["Why are there tides?"])
        assert chat.replies == ["The *moon* pulls the sea."]
        assert not chat.app.sidebar.display
        await chat.send("roles")
        await chat.answered()
        assert chat.replies[1].startswith("roles: user=Why are there tides?, assistant=The *moon*")
        await chat.until(lambda: len(tales.messages(1)) == 4)
        await chat.press("ctrl+o")
        await listed(chat, "Why", "Plan", "What")


async def test_open_in_mid_reply_keeps_what_had_come(open_chat: OpenChat, tales: History) -> None:
    async with open_chat(history=tales) as chat:
        await chat.send("endless")
        await chat.until(lambda: "word5 " in chat.replies[0])
        await chat.press("ctrl+o")
        await listed(chat, "Endless", "Plan", "What", "Why")
        await chat.press("down", "enter")
        await chat.until(lambda: chat.questions == ["Plan a trip to Rome"])
        assert not chat.app.is_answering
        kept = tales.messages(4)[1]
        assert "word5 " in kept.content
        assert kept.partial
        assert len(tales.messages(3)) == 2


async def test_search_over_titles_and_text_highlights_and_opens_at_the_message(
    open_chat: OpenChat, tales: History
) -> None:
    for number in range(30):
        tales.add(2, "user", f"And number {number}?")
        tales.add(2, "assistant", "Shrimps. " * 40)
    async with open_chat(size=(100, 30), history=tales) as chat:
        await chat.press("ctrl+o", "slash", *"plank")
        await listed(chat, "What do jellyfish eat? now Plankton, which drifts")
        (prompt, *_) = [option.prompt for option in chat.app.sidebar.titles.options]
        marked = [str(prompt)[span.start : span.end] for span in prompt.spans if "accent" in str(span.style)]
        assert marked == ["Plankton"]
        await chat.press("enter")
        await chat.until(lambda: chat.app.query("AssistantTurn.-found"))
        (found,) = chat.app.query("AssistantTurn.-found").results(AssistantTurn)
        await chat.until(lambda: "Plankton, which drifts" in chat.screen())
        assert found.turn is not None
        assert found.turn.stored_id == 4
        await chat.send("roles")
        await chat.answered()
        assert chat.questions[-1] == "roles"
        assert "And number 29?" in chat.questions
        await chat.until(lambda: chat.view.scroll_y == chat.view.max_scroll_y)


async def test_enter_right_after_the_last_letter_opens_what_that_finds(
    open_chat: OpenChat, tales: History
) -> None:
    async with open_chat(history=tales) as chat:
        await chat.press("ctrl+o")
        await listed(chat, "Plan", "What", "Why")
        await chat.press("slash", *"moon", "enter")
        await chat.until(lambda: chat.questions == ["Why are there tides?"])


async def test_what_is_typed_ahead_does_nothing_to_conversations(open_chat: OpenChat, tales: History) -> None:
    async with open_chat(history=tales) as chat:
        await chat.press("ctrl+o")
        await listed(chat, "Plan", "What", "Why")
        for key in ("slash", *"dude"):
            chat.app.simulate_key(key)
        await chat.until(lambda: chat.app.sidebar.search_box.value == "dude")
        await chat.press("escape")
        await listed(chat, "Plan", "What", "Why")
        for key in ("down", "enter", *"dude"):
            chat.app.simulate_key(key)
        await chat.until(lambda: chat.questions == ["What do jellyfish eat?"])
        await chat.settle()
        assert len(tales.list()) == 3


async def test_search_takes_any_text(open_chat: OpenChat, tales: History) -> None:
    async with open_chat(history=tales) as chat:
        for text in ('"', "sea OR", "NEAR(", "*", "title:sea", "-xyzzy", "[bold]"):
            await chat.send(f"/search {text}")
            await chat.until(
                lambda text=text: f"Nothing matches “{text}”." in " ".join(chat.screen().split())
            )
            await chat.press("escape")
            await listed(chat, "Plan", "What", "Why")
            await chat.press("escape")
            assert chat.app.prompt.has_focus


async def test_rename(open_chat: OpenChat, tales: History) -> None:
    async with open_chat(history=tales) as chat:
        await chat.press("ctrl+o")
        await listed(chat, "Plan", "What", "Why")
        await chat.press("r")
        await chat.until(lambda: "Enter keeps it" in chat.screen())
        line = chat.app.screen.query_one(Input)
        assert line.value == "Plan a trip to Rome"
        line.value = "[bold]Roma[/bold] \x1b[31m"
        await chat.press("enter")
        await listed(chat, "[bold]Roma[/bold] [31m", "What", "Why")
        assert tales.conversation(3).title == "[bold]Roma[/bold] [31m"
        await chat.press("r", "escape", "r", "backspace")
        await chat.press("escape")
        assert tales.conversation(3).title == "[bold]Roma[/bold] [31m"
        assert chat.app.sidebar.titles.has_focus


async def test_pin(open_chat: OpenChat, tales: History) -> None:
    async with open_chat(history=tales) as chat:
        await chat.press("ctrl+o")
        await listed(chat, "Plan", "What", "Why")
        await chat.press("end", "p")
        await listed(chat, "★ Why", "Plan", "What")
        await chat.press("p")
        await listed(chat, "Plan", "What", "Why")


async def test_delete_and_undo(open_chat: OpenChat, tales: History) -> None:
    async with open_chat(history=tales) as chat:
        await chat.press("ctrl+o")
        await listed(chat, "Plan", "What", "Why")
        await chat.press("down", "d")
        await listed(chat, "Plan", "Why")
        await chat.until(lambda: "Deleted “What do" in chat.screen())
        await chat.press("delete")
        await listed(chat, "Plan")
        await chat.press("u", "u")
        await listed(chat, "Plan", "What", "Why")
        await chat.press("u")
        await chat.until(lambda: "Nothing was deleted" in " ".join(chat.screen().split()))


async def test_delete_of_the_open_conversation_in_mid_reply_and_undo(
    open_chat: OpenChat, tales: History
) -> None:
    async with open_chat(history=tales) as chat:
        await chat.send("endless")
        await chat.until(lambda: "word5 " in chat.replies[0])
        await chat.until(lambda: len(tales.messages(4)) == 2)
        await chat.press("ctrl+o")
        await listed(chat, "Endless", "Plan", "What", "Why")
        await chat.press("d")
        await listed(chat, "Plan", "What", "Why")
        await chat.until(lambda: not chat.app.is_answering and chat.questions == [])
        await chat.app.talk.save()
        assert len(tales.list()) == 3
        await chat.press("u")
        await chat.until(lambda: chat.questions == ["endless"])
        assert "word5 " in chat.replies[0]


@pytest.mark.parametrize("size", [WIDE, (80, 24)])
async def test_keys_are_for_the_conversation_in_the_chat_until_another_is_chosen(
    size: tuple[int, int], open_chat: OpenChat, tales: History
) -> None:
    async with open_chat(size=size, history=tales) as chat:
        await chat.press("ctrl+o")
        await listed(chat, "Plan", "What", "Why")
        await chat.press("end", "escape")
        await chat.send("hello")
        await chat.answered()
        await chat.until(lambda: chat.app.sidebar._open_id == 4)
        await chat.press("ctrl+o")
        await listed(chat, "Hello", "Plan", "What", "Why")
        assert chat.app.sidebar.titles.highlighted == 0
        await chat.press("p")
        await listed(chat, "★ Hello", "Plan", "What", "Why")


async def test_what_came_back_is_under_the_highlight(open_chat: OpenChat, tales: History) -> None:
    async with open_chat(history=tales) as chat:
        await chat.press("ctrl+o")
        await listed(chat, "Plan", "What", "Why")
        await chat.press("down", "d")
        await listed(chat, "Plan", "Why")
        await chat.press("up", "u")
        await listed(chat, "Plan", "What", "Why")
        assert chat.app.sidebar.titles.highlighted == 1


async def test_export_writes_beside_what_is_there(
    open_chat: OpenChat, tales: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_chat(history=tales) as chat:
        await chat.press("ctrl+o")
        await listed(chat, "Plan", "What", "Why")
        await chat.press("e", "e", "j")
        names = [f"plan-a-trip-to-rome{ending}" for ending in (".md", "-2.md", ".json")]
        await chat.until(lambda: all(_is_written(tmp_path / name) for name in names))
        assert "# Rome\n\nTake the night train." in (tmp_path / "plan-a-trip-to-rome.md").read_text()
        document = json.loads((tmp_path / "plan-a-trip-to-rome.json").read_text())
        assert [message["role"] for message in document["messages"]] == ["user", "assistant"]
        monkeypatch.setattr(Path, "open", _full_disk)
        await chat.press("e")
        await chat.until(lambda: "No space left" in " ".join(chat.screen().split()))


def _is_written(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _full_disk(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


async def test_commands_for_the_open_conversation(
    open_chat: OpenChat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_chat() as chat:
        for number, line in enumerate(("/export", "/rename x"), start=1):
            await chat.send(line)
            await chat.until(lambda number=number: len(chat.notices) == number)
            assert chat.notices[-1] == "There is nothing in this conversation yet."
            chat.app.prompt.text = ""
        await chat.send("roles")
        await chat.answered()
        await chat.send("/rename The roles")
        await chat.until(lambda: chat.history.list()[0].title == "The roles")
        await chat.send("/rename")
        await chat.until(lambda: "Enter keeps it" in chat.screen())
        assert chat.app.screen.query_one(Input).value == "The roles"
        chat.app.screen.query_one(Input).value = "The two roles"
        await chat.press("enter")
        await chat.until(lambda: chat.history.list()[0].title == "The two roles")
        await chat.send("/export")
        await chat.until(lambda: (tmp_path / "the-two-roles.md").exists())
        await chat.send("/export own.json")
        await chat.until(lambda: (tmp_path / "own.json").exists())
        await chat.send("/export own.json")
        await chat.until(lambda: chat.notices[-1].endswith("is there already: name another file."))


async def test_conversation_that_is_gone_is_told(open_chat: OpenChat, tales: History) -> None:
    async with open_chat(size=WIDE, history=tales) as chat:
        await listed(chat, "Plan", "What", "Why")
        await chat.press("ctrl+o")
        History().delete(3)
        chat.app.sidebar.post_message(sidebar.Sidebar.Opened(3, None))
        await listed(chat, "What", "Why")
        chat.app.sidebar.post_message(sidebar.Sidebar.Opened(99, None))
        await chat.settle()
        assert chat.questions == []


async def test_conversation_deleted_elsewhere_is_kept_by_who_still_talks_in_it(
    open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_chat() as chat:
        await chat.send("first empty")
        await chat.answered()
        other = History()
        other.delete(1)
        monkeypatch.setattr("medusa_chat.history.store.SECONDS_TO_UNDO", -1)
        other.purge()
        await chat.send("roles")
        await chat.answered()
        await chat.until(lambda: len(chat.history.messages(1)) == 3)
        assert chat.notices == []


async def test_more_is_listed_at_the_end_of_the_list(
    open_chat: OpenChat, tales: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation_list, "_ROWS_AT_ONCE", 2)
    async with open_chat(history=tales) as chat:
        chat.app.sidebar._num_wanted = 2
        await chat.press("ctrl+o")
        await listed(chat, "Plan", "What")
        await chat.press("down")
        await listed(chat, "Plan", "What", "Why")


async def test_empty_history_says_what_will_be_there(open_chat: OpenChat) -> None:
    async with open_chat(size=WIDE) as chat:
        await chat.until(lambda: "No conversations yet." in chat.screen())
        await chat.press("ctrl+o", "enter", "r", "p", "d", "e")
        await chat.press("escape")
        await chat.send("roles")
        await chat.answered()
        await listed(chat, "Roles")


@pytest.fixture
def long_tale() -> History:
    """500 messages."""
    history = History()
    conversation = history.create("m")
    for number in range(250):
        history.add(conversation, "user", f"question {number}")
        history.add(conversation, "assistant", f"answer {number}")
    return history


async def test_long_conversation_is_mounted_as_one_scrolls(open_chat: OpenChat, long_tale: History) -> None:
    async with open_chat(size=(100, 30), resume=True, history=long_tale) as chat:
        await chat.until(lambda: chat.questions)
        assert chat.questions[-1] == "question 249"
        await chat.until(lambda: chat.questions[0] == "question 240")
        assert len(chat.questions) == len(chat.replies) == 10
        most = 0
        for _ in range(300):
            if int(_numbers(chat.questions[0])[0]) < 215:
                break
            seen = chat.screen()
            await chat.press("pageup")
            await chat.until(lambda: not chat.view._is_growing)
            most = max(most, len(chat.questions))
            numbers = [int(word) for word in _numbers(seen)]
            after = [int(word) for word in _numbers(chat.screen())]
            assert min(after) >= min(numbers) - 12  # what comes follows what was seen
        assert int(_numbers(chat.questions[0])[0]) < 215
        assert most <= 27
        while chat.questions[-1] != "question 249" or chat.view.scroll_y < chat.view.max_scroll_y:
            await chat.press("pagedown")
            await chat.until(lambda: not chat.view._is_growing)
        assert len(chat.questions) <= 27
        await chat.send("roles")
        await chat.answered()
        assert chat.replies[-1].startswith("roles: user=question 0, assistant=answer 0")
        await chat.until(lambda: chat.view.scroll_y == chat.view.max_scroll_y)


def _numbers(screen: str) -> list[str]:
    return re.findall(r"question (\d+)", screen)


async def test_message_sent_while_scrolled_far_up_is_shown_at_the_end(
    open_chat: OpenChat, long_tale: History
) -> None:
    async with open_chat(size=(100, 30), resume=True, history=long_tale) as chat:
        await chat.until(lambda: chat.questions)
        while chat.questions[-1] == "question 249":
            await chat.press("pageup")
            await chat.until(lambda: not chat.view._is_growing)
        await chat.send("roles")
        await chat.answered()
        assert chat.questions[-2:] == ["question 249", "roles"]
        widgets = [child for child in chat.view.turns.children if isinstance(child, UserTurn | AssistantTurn)]
        assert len(widgets) == 22
        await chat.until(lambda: chat.view.scroll_y == chat.view.max_scroll_y)


async def test_reply_goes_on_while_one_scrolls_far_up(open_chat: OpenChat, long_tale: History) -> None:
    async with open_chat(size=(100, 30), resume=True, history=long_tale) as chat:
        await chat.until(lambda: chat.questions)
        await chat.send("endless")
        await chat.until(lambda: "word5 " in chat.replies[-1])
        while int(_numbers(chat.questions[0])[0]) > 225:
            await chat.press("pageup")
            await chat.until(lambda: not chat.view._is_growing)
        there = chat.view.scroll_y
        await chat.until(lambda: "word200 " in chat.replies[-1])
        assert chat.view.scroll_y == there
        await chat.press("escape")
        await chat.answered()
        assert chat.questions[-1] == "endless"
        await chat.until(lambda: long_tale.messages(1)[-1].content == chat.replies[-1])


async def test_damaged_database_is_told_and_nothing_said_is_lost(open_chat: OpenChat) -> None:
    paths.data_dir().mkdir(parents=True)
    (paths.data_dir() / "history.db").write_bytes(b"nothing of the kind" * 100)
    async with open_chat(size=WIDE) as chat:
        await chat.until(lambda: chat.notices)
        assert "is damaged. It is kept as" in chat.notices[0]
        await chat.send("roles")
        await chat.answered()
        await chat.until(lambda: len(chat.history.messages(1)) == 2)
    assert list(paths.data_dir().glob("history-damaged-*.db"))


async def test_database_damaged_in_mid_talk_is_told_and_all_is_stored_anew(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("one empty")
        await chat.answered()
        await chat.until(lambda: chat.history.list())
        chat.history.close()
        (paths.data_dir() / "history.db").write_bytes(b"nothing of the kind" * 100)
        await chat.send("roles")
        await chat.answered()
        await chat.until(lambda: chat.notices)
        assert "is damaged. It is kept as" in chat.notices[0]
        await chat.until(lambda: len(chat.history.messages(1)) == 3)


async def test_database_of_a_newer_version_is_told_once_and_the_chat_goes_on(open_chat: OpenChat) -> None:
    newer = History()
    newer._open().execute("PRAGMA user_version = 99")
    newer.close()
    async with open_chat() as chat:
        await chat.until(lambda: chat.notices)
        assert "was written by a newer medusa-chat" in chat.notices[0]
        await chat.send("roles")
        await chat.answered()
        await chat.app.talk.save()
        await chat.settle()
        assert chat.replies == ["roles: user=roles"]
        assert len(chat.notices) == 1


async def test_full_disk_is_told_and_made_up_for(open_chat: OpenChat) -> None:
    history = History()
    async with open_chat(history=history) as chat:
        await chat.send("one empty")
        await chat.answered()
        await chat.until(lambda: len(history.messages(1)) == 1)
        assert history._connection is not None
        history._connection.execute("PRAGMA max_page_count = 1")
        await chat.send("much " * 4000 + "empty")
        await chat.until(lambda: chat.notices)
        assert "the disk is full. Free some space." in chat.notices[0]
        history._connection.execute("PRAGMA max_page_count = 1000000")
        await chat.until(lambda: len(chat.notices) == 2, seconds=3)
        assert len(history.messages(1)) == 2


async def test_conversation_left_while_the_disk_was_full_is_saved_later(open_chat: OpenChat) -> None:
    history = History()
    async with open_chat(history=history) as chat:
        await chat.until(lambda: history.list() == ())
        assert history._connection is not None
        history._connection.execute("PRAGMA max_page_count = 1")
        await chat.send("much " * 4000 + "roles")
        await chat.answered()
        assert "the disk is full" in chat.notices[0]
        await chat.press("ctrl+n")
        await chat.until(lambda: chat.questions == [])
        history._connection.execute("PRAGMA max_page_count = 1000000")
        await chat.until(lambda: history.list(), seconds=3)
        await chat.until(lambda: len(history.messages(1)) == 2)


def test_ages() -> None:
    now = 1_700_000_000.0
    ages = (0, -5, 59, 60, 3599, 3600, DAY - 1, DAY, 6 * DAY, 500 * DAY)
    assert [age(now - seconds, now) for seconds in ages] == [
        "now", "now", "now", "1m", "59m", "1h", "23h", "1d", "6d", "2022",
    ]  # fmt: skip
    assert age(now - 30 * DAY, now) == "15 Oct"
