"""Talking: streaming, stopping, saving, crashing, coming back."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from textual import events

from medusa_chat.app import chat_view
from medusa_chat.history import History
from medusa_chat.records import LoadRequest
from medusa_chat.settings import Settings
from tests.app.conftest import Chat, OpenChat
from tests.scripted_worker import MARKDOWN


async def test_reply_streams_and_is_saved_whole(open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_STEP_SECONDS", "0.02")
    async with open_chat() as chat:
        await chat.send("How does it work?")
        await chat.until(lambda: "guess" in chat.replies[0])
        assert "Same words" not in chat.replies[0]
        await chat.answered()
        assert chat.replies == [MARKDOWN]
        assert "Tree drafting" in chat.screen()
        assert "×" in chat.captions[0]
        await chat.until(lambda: len(_stored(chat.history)) == 2)
        await chat.until(lambda: _stored(chat.history)[1] == ("assistant", MARKDOWN, False))
        assert _stored(chat.history)[0] == ("user", "How does it work?", False)


async def test_message_is_saved_before_the_reply_and_the_reply_while_it_streams(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("endless")
        await chat.until(lambda: len(_stored(chat.history)) == 2)
        role, text, partial = _stored(chat.history)[1]
        assert (role, partial) == ("assistant", True)
        await chat.until(lambda: len(_stored(chat.history)[1][1]) > len(text), seconds=2)


async def test_escape_keeps_what_is_there_and_marks_it(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("endless")
        await chat.until(lambda: "word5 " in chat.replies[0])
        await chat.press("escape")
        await chat.answered()
        kept = chat.replies[0]
        assert "word5 " in kept
        assert chat.captions[0].startswith("■ stopped")
        await chat.until(lambda: _stored(chat.history)[-1] == ("assistant", kept, True))
        await chat.send("go on, which roles")
        await chat.answered()
        assert chat.replies[1].startswith("roles: user=endless, assistant=word0")


async def test_temperature_and_drafting_reach_a_reply_under_way(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("temperature")
        await chat.until(lambda: "T=0.2 D=1" in chat.replies[0])
        await chat.press("f3")
        await chat.until(lambda: "T=0.3 D=1" in chat.replies[0])
        assert "0.30" in chat.panel()
        await chat.press("f9")
        await chat.until(lambda: "T=0.3 D=0" in chat.replies[0])
        assert "drafting off" in chat.panel()


async def test_typing_while_a_reply_streams_is_not_lost(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("endless")
        await chat.until(lambda: "word5 " in chat.replies[0])
        await chat.send("next")
        await chat.settle()
        assert chat.app.prompt.text == "next"
        assert chat.questions == ["endless"]


def _kill_engine(chat: Chat) -> None:
    process = chat.engine._process
    assert process is not None
    process.kill()


async def test_crash_is_told_the_engine_restarted_and_the_chat_goes_on(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("please crash")
        await chat.until(lambda: chat.notices)
        assert "ended with status 3" in chat.notices[0]
        assert "the device fell off the bus" in chat.notices[0]
        assert chat.replies == ["These words arrived. "]
        await chat.ready()
        await chat.send("roles")
        await chat.answered()
        assert chat.replies[1] == ("roles: user=please crash, assistant=These words arrived. , user=roles")


async def test_question_that_met_a_dead_engine_is_asked_again(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        _kill_engine(chat)
        await chat.send("roles")
        await chat.answered()
        assert "SIGKILL" in chat.notices[0]
        assert chat.replies == ["roles: user=roles"]


async def test_engine_that_dies_while_nothing_is_under_way_is_told_and_started_again(
    open_chat: OpenChat,
) -> None:
    async with open_chat() as chat:
        for number in (1, 2):
            _kill_engine(chat)
            await chat.until(lambda number=number: len(chat.notices) == number)
            assert "SIGKILL" in chat.notices[-1]
            assert "started again" in chat.notices[-1]
            await chat.ready()
            await chat.send("roles")
            await chat.answered()
        assert len(chat.notices) == 2
        assert chat.replies[0] == "roles: user=roles"


async def test_engine_that_dies_unasked_again_and_again_is_left_to_the_user(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        _kill_engine(chat)
        await chat.until(lambda: chat.notices)
        await chat.ready()
        _kill_engine(chat)
        await chat.until(lambda: len(chat.notices) == 2)
        assert "/retry" in chat.notices[1]
        assert chat.app.loader.phase == "down"
        await chat.send("/retry")
        await chat.ready()
        _kill_engine(chat)
        await chat.until(lambda: len(chat.notices) == 3)
        await chat.ready()


async def test_engine_that_dies_in_a_race_is_started_again(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("please crash")
        await chat.until(lambda: chat.notices)
        await chat.ready()
        await chat.press("f12")
        await chat.until(lambda: len(chat.app.screen_stack) == 2 and "fell off the bus" in chat.screen())
        await chat.press("escape")
        await chat.until(lambda: len(chat.notices) == 2)
        await chat.ready()


async def test_question_that_kills_the_engine_is_asked_twice_at_most(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("silent-crash")
        await chat.answered()
        assert len(chat.notices) == 2
        await chat.ready()


async def test_crash_in_loading_is_tried_once_more_then_left_to_the_user(
    open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    crashes = tmp_path / "crashes"
    crashes.mkdir()
    (crashes / "1").touch()
    (crashes / "2").touch()
    monkeypatch.setenv("SCRIPTED_CRASHES", str(crashes))
    async with open_chat(wait=False) as chat:
        await chat.until(lambda: len(chat.notices) == 2)
        assert "/retry" in chat.notices[1]
        await chat.send("hello")
        await chat.settle()
        assert chat.app.prompt.text == "hello"  # nobody would answer it
        chat.app.prompt.text = ""
        await chat.send("/retry")
        await chat.ready()


async def test_load_failure_is_one_sentence(open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_LOAD", "fail")
    async with open_chat(wait=False) as chat:
        await chat.until(lambda: chat.notices)
        assert chat.notices[0].startswith("The model needs 99 GB and 2 GB are free.")


async def test_what_was_not_as_a_config_says_is_told_once_loaded(open_chat: OpenChat) -> None:
    async with open_chat(request=LoadRequest("mislabelled")) as chat:
        assert chat.notices == ["config.json says 2 heads, but it is 4."]


async def test_message_sent_while_loading_is_answered_when_loaded(
    open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    held.touch()
    monkeypatch.setenv("SCRIPTED_HELD", str(held))
    async with open_chat(wait=False) as chat:
        await chat.send("roles")
        await chat.settle()
        assert chat.questions == ["roles"]
        assert chat.captions == ["waiting for the model …"]
        assert not chat.app.is_ready
        held.unlink()
        await chat.answered()
        assert chat.replies == ["roles: user=roles"]


async def test_a_question_waits_for_the_model_no_longer_than_it_does(
    open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    held.touch()
    monkeypatch.setenv("SCRIPTED_HELD", str(held))
    monkeypatch.setenv("SCRIPTED_STEP_SECONDS", "1")
    async with open_chat(wait=False) as chat:
        await chat.send("hello")
        await chat.until(lambda: chat.captions == ["waiting for the model …"])
        held.unlink()
        await chat.until(lambda: chat.captions == ["…"])
        assert chat.app.is_answering


async def test_paste_of_many_lines_fills_the_box_and_sends_nothing(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        chat.app.prompt.post_message(events.Paste("one\r\ntwo\rthree\x1b[31m\n\nfour"))
        await chat.settle()
        assert chat.app.prompt.text == "one\ntwo\nthree[31m\n\nfour"
        assert chat.questions == []
        await chat.press("ctrl+j", "x", "shift+enter")
        assert chat.app.prompt.text.endswith("four\nx\n")
        await chat.press("enter")
        await chat.until(lambda: chat.questions == ["one\ntwo\nthree[31m\n\nfour\nx"])
        assert chat.app.prompt.text == ""


async def test_empty_prompt_sends_nothing_and_hints(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("  \n ")
        await chat.settle()
        assert chat.questions == []
        assert "Type a message first" in chat.screen()


async def test_hostile_text_neither_runs_nor_vanishes(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("[bold]my\x1b[5m markup[/bold] hostile")
        await chat.answered()
        screen = chat.screen()
        assert "[bold]my[5m markup[/bold] hostile" in screen
        assert "[bold]markup[/bold]" in screen
        assert "<script>alert(1)</script>" in screen
        assert "<div>a block of HTML</div>" in screen
        assert not [char for char in screen if char in "\x1b\x07\x9b\u202e"]
        assert "\x1b" not in "".join(text for _, text, _ in _stored(chat.history))


async def test_too_long_a_message_is_told_and_not_sent_again(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("this is toolong")
        await chat.until(lambda: chat.notices)
        assert "Shorten it" in chat.notices[0]
        await chat.send("roles")
        await chat.answered()
        assert chat.replies == ["roles: user=roles"]


async def test_a_context_that_memory_has_shortened_is_shown_so(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("no-memory")
        await chat.answered()
        assert "/ 1,024" in chat.panel()
        assert chat.replies == ["These words arrived. "]
        assert any("The context is 1,024 tokens from now on." in notice for notice in chat.notices)
        assert "broken off" in chat.captions[-1]
        await chat.send("and now")
        await chat.answered()
        assert "/ 1,024" in chat.panel()


async def test_left_out_messages_are_told(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("dropped")
        await chat.answered()
        assert "the oldest 3 messages were left out" in chat.notices[0]


async def test_continue_shows_the_latest_conversation_and_goes_on_with_it(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("/system Be brief.")
        await chat.send("roles")
        await chat.answered()
    async with open_chat(resume=True) as chat:
        await chat.until(lambda: chat.questions == ["roles"])
        assert chat.replies == ["roles: system=Be brief., user=roles"]
        await chat.send("more roles")
        await chat.answered()
        assert "system=Be brief., user=roles, assistant=roles: " in chat.replies[1]
    assert len(History().list()) == 1


async def test_continue_with_a_long_conversation_shows_its_end_and_sends_it_all(open_chat: OpenChat) -> None:
    history = History()
    conversation = history.create("m")
    for number in range(25):
        history.add(conversation, "user", f"question {number}")
        history.add(conversation, "assistant", f"answer {number}")
    async with open_chat(resume=True, history=history) as chat:
        await chat.until(lambda: chat.questions)
        await chat.until(lambda: chat.questions[0] == "question 15")
        assert len(chat.questions) == len(chat.replies) == 10
        await chat.send("roles")
        await chat.answered()
        assert chat.replies[-1].startswith("roles: user=question 0, assistant=answer 0, user=question 1")


async def test_a_reply_that_grows_by_lines_moves_nothing_for_who_has_scrolled_up(
    open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_STEP_SECONDS", "0.05")
    async with open_chat(size=(80, 16)) as chat:
        await chat.send("hello")
        await chat.until(lambda: chat.view.max_scroll_y > 4)
        chat.view.scroll_to(y=chat.view.max_scroll_y - 3, animate=False)
        await chat.settle()

        def top() -> list[str]:
            return [line[:70].rstrip() for line in chat.screen().splitlines()[:5]]  # without the scrollbar

        seen, length = top(), len(chat.replies[0])
        while chat.app.is_answering:
            await chat.settle()
            assert top() == seen
        await chat.settle()
        assert top() == seen
        assert len(chat.replies[0]) > length
        chat.view.scroll_end(animate=False)
        await chat.until(lambda: "Same words, fewer steps." in chat.screen())


async def test_long_chat_keeps_its_end_on_the_screen_and_all_of_it_in_mind(
    open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_view, "_MOST_TURNS", 4)
    async with open_chat() as chat:
        for number in range(4):
            await chat.send(f"{number} empty")
            await chat.answered()
        await chat.send("roles")
        await chat.answered()
        assert chat.questions == ["3 empty", "roles"]
        assert chat.replies[-1].startswith("roles: user=0 empty\n\n1 empty")
        assert _stored(chat.history)[0] == ("user", "0 empty", False)
        await chat.press("ctrl+n")
        await chat.send("roles")
        await chat.answered()
        assert chat.notices == []


async def test_continue_without_history_says_so(open_chat: OpenChat) -> None:
    async with open_chat(resume=True) as chat:
        await chat.until(lambda: chat.notices == ["There is no conversation to continue yet."])


async def test_history_that_cannot_be_opened_is_told_once_and_nothing_is_lost(
    open_chat: OpenChat, tmp_path: Path
) -> None:
    (tmp_path / "blocked").write_text("a file where the folder should be")
    async with open_chat(history=History(tmp_path / "blocked" / "history.db")) as chat:
        await chat.send("roles")
        await chat.answered()
        await chat.app.talk.save()
        await chat.settle()
        assert len(chat.notices) == 1
        assert chat.notices[0].startswith("This conversation is not being saved.")
        assert chat.replies == ["roles: user=roles"]


async def test_continue_with_a_history_that_can_only_be_read(open_chat: OpenChat) -> None:
    history = History()
    history.add(history.create("m"), "user", "hello")
    history.close()
    history._path.with_name("history.db-shm").mkdir()  # to SQLite as good as a read-only folder
    async with open_chat(resume=True, history=history) as chat:
        await chat.until(lambda: chat.notices)
        assert chat.questions == ["hello"]
        assert chat.notices[0].startswith("This conversation is not being saved.")
        await chat.send("roles")
        await chat.answered()
        assert chat.replies == ["roles: user=hello\n\nroles"]
        assert len(chat.notices) == 1


async def test_saving_that_failed_is_made_up_for(open_chat: OpenChat) -> None:
    history = History()
    async with open_chat(history=history) as chat:
        history.list()
        assert history._connection is not None
        history._connection.execute("PRAGMA query_only = ON")  # as a disk that became read-only
        await chat.send("roles")
        await chat.answered()
        assert "not being saved" in chat.notices[0]
        await chat.until(lambda: len(chat.notices) == 2, seconds=3)
        assert [role for role, _, _ in _stored(history)] == ["user", "assistant"]


async def test_two_instances_share_one_database(open_chat: OpenChat) -> None:
    async with open_chat() as one, open_chat() as two:
        await asyncio.gather(one.send("roles"), two.send("roles"))
        await one.answered()
        await two.answered()
        assert one.notices == two.notices == []
    assert len(History().list()) == 2


async def test_new_conversation_in_mid_reply_keeps_the_old_one(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("endless")
        await chat.until(lambda: "word5 " in chat.replies[0])
        await chat.press("ctrl+n")
        await chat.until(lambda: chat.questions == [])
        await chat.send("roles")
        await chat.answered()
        assert chat.replies == ["roles: user=roles"]
        conversations = chat.history.list()
        assert len(conversations) == 2
        assert "word5 " in chat.history.messages(conversations[-1].id)[1].content


async def test_switching_the_model_keeps_the_conversation(open_chat: OpenChat, tmp_path: Path) -> None:
    other = tmp_path / "other-model"
    other.mkdir()
    (other / "config.json").write_text("{}")
    async with open_chat() as chat:
        await chat.send("roles")
        await chat.answered()
        await chat.send(f"/model {other}")
        await chat.until(lambda: "other-model" in chat.panel())
        await chat.ready()
        await chat.send("roles")
        await chat.answered()
        assert chat.replies[1].startswith("roles: user=roles, assistant=roles")


async def test_model_that_fails_to_load_gives_way_to_the_one_before(
    open_chat: OpenChat, tmp_path: Path
) -> None:
    async with open_chat() as chat:
        chat.app.loader.load(LoadRequest("too-big", quantization="8bit"))
        await chat.until(lambda: chat.notices)
        assert "Going back to smollm2-135m" in chat.notices[0]
        await chat.ready()


async def test_partial_reply_is_there_when_the_app_ends_in_mid_reply(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("endless")
        await chat.until(lambda: "word9 " in chat.replies[0])
    role, text, partial = _stored(History())[-1]
    assert (role, partial) == ("assistant", True)
    assert "word9 " in text


async def test_system_prompt_of_the_settings_is_sent(open_chat: OpenChat) -> None:
    async with open_chat(settings=Settings(system="Be kind.")) as chat:
        await chat.send("roles")
        await chat.answered()
        assert chat.replies == ["roles: system=Be kind., user=roles"]


def _stored(history: History) -> list[tuple[str, str, bool]]:
    try:
        latest = history.latest()
        messages = history.messages(latest.id) if latest else ()
    except sqlite3.Error:
        return []
    return [(message.role, message.content, message.partial) for message in messages]
