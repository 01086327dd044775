"""A conversation as a tree: in memory, and how it reaches the disk."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading

import pytest

from medusa_chat.app.conversation import Conversation, Recorder, Turn, load_conversation
from medusa_chat.errors import HistoryError
from medusa_chat.history import History
from tests.app.conftest import OpenChat

Shape = tuple[str, "list[Shape]"]


@pytest.fixture
def talk() -> Conversation:
    """A question with an answer and another question after it."""
    conversation = Conversation("Be brief.")
    conversation.add("user", "tides?")
    conversation.add("assistant", "The moon.")
    conversation.add("user", "sun?")
    return conversation


def said(conversation: Conversation) -> list[str]:
    return [turn.content for turn in conversation.turns]


def shape(conversation: Conversation, parent: Turn | None = None) -> list[Shape]:
    """The whole tree; alternatives in their order."""
    after = [turn for turn in conversation.all_turns if turn.parent is parent]
    return [(turn.content, shape(conversation, turn)) for turn in after]


def loaded(conversation: Conversation) -> Conversation:
    """The same, as the next start finds it."""
    history = History()
    found = load_conversation(history, conversation.id)
    history.close()
    assert found is not None
    return found


def test_regenerating_keeps_the_answers_and_goes_between_them(talk: Conversation) -> None:
    tides, moon, sun = talk.turns
    talk.go_before(moon)
    assert said(talk) == ["tides?"]
    gravity = talk.add("assistant", "Gravity.")
    assert said(talk) == ["tides?", "Gravity."]
    assert talk.alternatives(gravity) == talk.alternatives(moon) == [moon, gravity]
    assert talk.alternatives(tides) == [tides]
    talk.choose(moon)
    assert talk.turns == [tides, moon, sun]
    talk.go_before(gravity)
    assert talk.add("assistant", "Both.").parent is tides
    assert [turn.content for turn in talk.alternatives(moon)] == ["The moon.", "Gravity.", "Both."]


def test_editing_the_first_message(talk: Conversation) -> None:
    tides = talk.turns[0]
    talk.go_before(tides)
    assert talk.turns == []
    wind = talk.add("user", "wind?")
    assert wind.parent is None
    assert talk.alternatives(wind) == [tides, wind]
    assert [message.content for message in talk.messages()] == ["Be brief.", "wind?"]
    talk.choose(tides)
    assert said(talk) == ["tides?", "The moon.", "sun?"]


def test_a_branch_is_gone_on_with_where_it_was_left(talk: Conversation) -> None:
    tides, moon, sun = talk.turns
    talk.go_before(sun)
    stars = talk.add("user", "stars?")
    talk.choose(sun)
    talk.go_before(moon)
    gravity = talk.add("assistant", "Gravity.")
    talk.choose(moon)
    assert talk.turns == [tides, moon, sun]
    talk.choose(stars)
    talk.choose(gravity)
    talk.choose(moon)
    assert talk.turns == [tides, moon, stars]
    talk.choose(tides)
    assert talk.turns == [tides, moon, stars]  # which goes through it already


def test_a_cut_is_taken_back_by_choosing_what_was_there(talk: Conversation) -> None:
    turns = list(talk.turns)
    talk.go_before(turns[1])
    talk.choose(turns[0])
    assert talk.turns == turns[:1]  # an answer under way goes there
    talk.choose(turns[1])
    assert talk.turns == turns


async def test_branches_survive_and_the_screen_comes_back(talk: Conversation) -> None:
    recorder = Recorder(History())
    moon = talk.turns[1]
    talk.go_before(moon)
    talk.add("assistant", "Gravity.", partial=True)
    talk.options_json = '{"temperature": 0}'
    await recorder.save(talk, "m")
    assert talk.is_stored
    again = loaded(talk)
    assert (said(again), shape(again), again.is_stored) == (["tides?", "Gravity."], shape(talk), True)
    assert (again.system, again.options_json) == ("Be brief.", '{"temperature": 0}')
    talk.choose(moon)
    assert not talk.is_stored
    await recorder.save(talk, "m")
    assert talk.is_stored
    again = loaded(talk)
    assert said(again) == ["tides?", "The moon.", "sun?"]
    gravity = again.turn_stored_as(talk.all_turns[-1].stored_id)
    assert gravity is not None
    assert gravity not in again.turns
    again.choose(gravity)
    assert (said(again), gravity.partial) == (["tides?", "Gravity."], True)


async def test_who_goes_back_while_the_other_branch_is_saved_comes_back_to_it(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History()
    recorder = Recorder(history)
    moon = talk.turns[1]
    talk.go_before(moon)
    gravity = talk.add("assistant", "Gravity.")
    await recorder.save(talk, "m")
    talk.choose(moon)
    set_leaf, going_on, is_written = history.set_leaf, threading.Event(), threading.Event()

    def slowly(conversation_id: int, message_id: int) -> None:
        is_written.set()
        assert going_on.wait(10)
        set_leaf(conversation_id, message_id)

    monkeypatch.setattr(history, "set_leaf", slowly)
    first = asyncio.create_task(recorder.save(talk, "m"))
    assert await asyncio.to_thread(is_written.wait, 10)
    talk.choose(gravity)
    second = asyncio.create_task(recorder.save(talk, "m"))
    await asyncio.sleep(0)
    going_on.set()
    await asyncio.gather(first, second)
    assert said(loaded(talk)) == ["tides?", "Gravity."]
    assert talk.is_stored


async def test_of_branches_never_seen_the_newest_is_chosen(talk: Conversation) -> None:
    tides, moon, sun = talk.turns
    talk.go_before(moon)
    talk.add("assistant", "Gravity.")
    talk.choose(sun)
    talk.go_before(talk.add("assistant", "Less."))
    talk.add("assistant", "Half of it.")
    talk.go_before(tides)
    talk.add("user", "wind?")
    await Recorder(History()).save(talk, "m")
    again = loaded(talk)
    assert said(again) == ["wind?"]
    again.choose(again.all_turns[0])
    assert said(again) == ["tides?", "The moon.", "sun?", "Half of it."]


async def test_a_branch_cut_for_an_answer_that_never_came_is_whole_at_the_next_start(
    talk: Conversation,
) -> None:
    recorder = Recorder(History())
    await recorder.save(talk, "m")
    talk.go_before(talk.turns[1])
    assert talk.is_stored
    talk.turns[0].content = "Tides?"
    await recorder.save(talk, "m")
    assert said(loaded(talk)) == ["Tides?", "The moon.", "sun?"]


async def test_a_stopped_reply_grows_on_in_its_row() -> None:
    talk = Conversation()
    talk.add("user", "tides?")
    talk.add("assistant", "The mo", partial=True)
    recorder = Recorder(History())
    await recorder.save(talk, "m")
    again = loaded(talk)
    reply = again.turns[-1]
    assert reply.caption == "■ not finished"
    reply.reopen()
    reply.content += "on."
    assert (reply.caption, again.is_stored) == ("", False)
    await recorder.save(again, "m")
    reply.partial = False
    await recorder.save(again, "m")
    (_, stored) = History().all_messages(again.id or 0)
    assert (stored.id, stored.content, stored.partial) == (reply.stored_id, "The moon.", False)


async def test_options_wait_for_the_first_turn_and_can_be_given_up() -> None:
    talk = Conversation(options_json='{"top_k": 5}')
    recorder = Recorder(History())
    await recorder.save(talk, "m")
    assert talk.id is None
    talk.add("user", "tides?")
    await recorder.save(talk, "m")
    assert loaded(talk).options_json == '{"top_k": 5}'
    talk.options_json = None
    assert not talk.is_stored
    await recorder.save(talk, "m")
    assert (loaded(talk).options_json, talk.is_stored) == (None, True)


async def test_a_conversation_deleted_elsewhere_is_stored_anew_with_all_branches(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(History())
    talk.options_json = "{}"
    moon = talk.turns[1]
    talk.go_before(moon)
    talk.add("assistant", "Gravity.")
    await recorder.save(talk, "m")
    monkeypatch.setattr("medusa_chat.history.store.SECONDS_TO_UNDO", -1)
    other = History()
    other.delete(talk.id or 0)
    other.purge()
    other.add(other.create("m"), "user", "has got the number of the other")
    talk.choose(moon)
    await recorder.save(talk, "m")
    again = loaded(talk)
    assert (shape(again), said(again), again.options_json) == (shape(talk), said(talk), "{}")
    assert len(other.list()) == 2
    assert len(other.all_messages(1)) == 1


async def test_two_that_write_to_one_conversation_make_two_branches(talk: Conversation) -> None:
    recorder = Recorder(History())
    await recorder.save(talk, "m")
    other = loaded(talk)
    other.add("assistant", "Far.")
    talk.add("assistant", "Less.")
    await Recorder(History()).save(other, "m")
    await recorder.save(talk, "m")
    again = loaded(talk)
    assert said(again) == ["tides?", "The moon.", "sun?", "Less."]
    assert [turn.content for turn in again.alternatives(again.turns[-1])] == ["Far.", "Less."]


async def test_what_a_failing_disk_kept_away_is_made_up_for(talk: Conversation) -> None:
    history = History()
    recorder = Recorder(history)
    await recorder.save(talk, "m")
    sun = talk.turns[-1]
    history._open().execute("PRAGMA query_only = ON")  # as a disk that became read-only
    talk.go_before(talk.turns[1])
    talk.add("assistant", "Gravity.")
    talk.add("user", "Why?")
    talk.choose(sun)
    talk.options_json = "{}"
    with pytest.raises(HistoryError, match="can't be written"):
        await recorder.save(talk, "m")
    assert recorder.has_unsaved
    await recorder.save(Conversation(), "m")  # another one is on the screen by now
    assert talk.is_stored
    assert not recorder.has_unsaved
    again = loaded(talk)
    assert (shape(again), said(again), again.options_json) == (shape(talk), said(talk), "{}")


@pytest.mark.parametrize("seed", range(6))
async def test_any_walk_through_a_tree_is_there_again(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    history = History()
    recorder = Recorder(history)
    talk = Conversation()
    talk.add("user", "0")
    really_add = History.add

    def add(*arguments: object) -> int:
        if chance.random() < 0.3:
            raise HistoryError("The disk is full.")
        return really_add(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(History, "add", add)
    for number in range(1, 60):
        turn = chance.choice(talk.all_turns)
        match chance.randrange(4):
            case 0:
                talk.choose(turn)
            case 1:
                talk.go_before(turn)
                talk.add(turn.role, str(number))
            case 2:
                turn.content += "+"
            case 3:
                talk.add("assistant", str(number))
        if chance.random() < 0.5:
            try:
                await recorder.save(talk, "m")
            except HistoryError:
                continue
            again = loaded(talk)
            assert (shape(again), said(again)) == (shape(talk), said(talk))
            assert again.is_stored


async def test_a_search_hit_on_another_branch_puts_that_on_the_screen(open_chat: OpenChat) -> None:
    history = History()
    conversation = history.create("m")
    question = history.add(conversation, "user", "Why are there tides?")
    hidden = history.add(conversation, "assistant", "The moon pulls.")
    history.add(conversation, "assistant", "Gravity.", parent_id=question)
    async with open_chat(history=history, resume=True) as chat:
        await chat.until(lambda: chat.replies == ["Gravity."])
        await chat.send("endless")
        await chat.until(lambda: "word5 " in chat.replies[-1])
        await chat.press("ctrl+o", "slash", *"moon", "enter")
        await chat.until(lambda: chat.replies == ["The moon pulls."])
        assert not chat.app.is_answering
        assert chat.app.query("AssistantTurn.-found")
        await chat.send("roles")
        await chat.answered()
        assert chat.replies[-1].startswith("roles: user=Why are there tides?, assistant=The moon pulls.")
        await chat.until(lambda: len(history.messages(conversation)) == 4)
    stored = history.all_messages(conversation)
    assert [message.parent_id for message in stored] == [None, question, question, 3, 4, hidden, 6]
    assert "word5 " in stored[4].content
    assert sqlite3.connect(history._path).execute("PRAGMA integrity_check").fetchall() == [("ok",)]
