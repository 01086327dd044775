"""The box: what was sent before, drafts, large pastes, keys in their order."""

from __future__ import annotations

import asyncio

import pytest
from textual import events

from medusa_chat.app.attachments import attach
from medusa_chat.app.input_history import InputHistory
from medusa_chat.app.pastes import Pastes
from medusa_chat.app.talk import Talk
from tests.app.conftest import OpenChat

LOG = "\n".join(f"line {number} (of many" for number in range(5000))


def test_up_goes_back_and_down_returns_to_what_was_typed() -> None:
    history = InputHistory()
    for text in ("one", "two", "two", " "):
        history.add(text)
    assert history.older("half a th") == "two"
    assert history.older("two") == "one"
    assert history.older("one") is None
    assert history.newer("one") == "two"
    assert history.newer("two") == "half a th"
    assert history.newer("half a th") is None


def test_what_is_typed_into_the_past_stays_until_something_is_sent() -> None:
    history = InputHistory()
    history.add("one")
    history.add("two")
    assert history.older("") == "two"
    assert history.older("two, changed") == "one"
    assert history.newer("one") == "two, changed"
    history.add("two, changed")
    assert [history.older(""), history.older(""), history.older("")] == ["two, changed", "two", "one"]


def test_earlier_sessions_come_before_this_one_even_while_it_is_browsed() -> None:
    history = InputHistory()
    history.add("now")
    assert history.older("draft") == "now"
    history.remember(["yesterday", "now", "long ago"])
    assert history.newer("now!") == "draft"
    assert history.older("draft") == "now!"
    assert history.older("now!") == "yesterday"
    assert history.older("yesterday") == "long ago"


def test_large_texts_are_folded_and_come_back_whole() -> None:
    pastes = Pastes()
    assert pastes.fold("short\ntext") == "short\ntext"
    folded = pastes.fold(LOG)
    assert folded == "[pasted 1: 5,000 lines, 94 kB]"
    text = f"Why? {folded} And {pastes.fold('x' * 30_000)}"
    assert text.endswith("[pasted 2: 1 line, 30 kB]")
    assert pastes.unfold(text) == f"Why? {LOG} And {'x' * 30_000}"
    assert pastes.fold(pastes.unfold(text)) == text
    assert pastes.within(text) == (LOG, "x" * 30_000)
    assert pastes.unfold("[pasted 9: 1 line]") == "[pasted 9: 1 line]"


async def test_messages_and_commands_come_back_and_the_draft_is_not_lost(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("roles\nplease")
        await chat.answered()
        await chat.send("/system Be brief.")
        await chat.press(*"half", "up")
        assert chat.app.prompt.text == "/system Be brief."
        assert not chat.app.prompt.popup.is_open
        await chat.press("up")
        assert chat.app.prompt.text == "roles\nplease"
        await chat.press("!", "down", "down")
        assert chat.app.prompt.text == "/system Be brief."
        await chat.press("up")
        assert chat.app.prompt.text == "roles!\nplease"
        await chat.press("down", "down", "down", "down")
        assert chat.app.prompt.text == "half"


async def test_up_first_moves_within_a_text_of_several_rows(open_chat: OpenChat) -> None:
    async with open_chat(size=(80, 24)) as chat:
        await chat.send("roles")
        await chat.answered()
        chat.app.prompt.insert("word " * 30)  # wraps
        await chat.press("up", "x")
        assert "x" in chat.app.prompt.text
        await chat.press("up", "up")
        assert chat.app.prompt.text == "roles"


async def test_texts_of_earlier_sessions_come_back_as_they_were_typed(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        sent = attach(f"@{__file__} what is it?").sent
        chat.app.prompt.remember([sent, LOG])
        await chat.press("up")
        assert chat.app.prompt.text == f"@{__file__} what is it?"
        assert not chat.app.prompt.popup.is_open
        await chat.press("up")
        assert chat.app.prompt.text == "[pasted 1: 5,000 lines, 94 kB]"


async def test_a_large_paste_is_folded_and_sent_whole(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        chat.app.prompt.insert("Why: ")
        chat.app.prompt.post_message(events.Paste(LOG.replace("\n", "\r\n") + "\x1b[31m"))
        await chat.settle()
        assert chat.app.prompt.text == "Why: [pasted 1: 5,000 lines, 94 kB]"
        await chat.press("enter")
        await chat.until(lambda: chat.app.talk.conversation.turns)
        assert chat.app.talk.conversation.turns[0].content == f"Why: {LOG}[31m"


async def test_backspace_takes_a_folded_paste_at_once_and_undo_brings_it_back(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        chat.app.prompt.post_message(events.Paste(LOG))
        await chat.press("backspace")
        assert chat.app.prompt.text == ""
        await chat.press("ctrl+z")
        assert chat.app.prompt.draft == LOG


async def test_a_pasted_slash_is_no_command_unless_it_names_one(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        for text in ("/etc/passwd is what?", "/quit\n", "/* comment */\nint x;"):
            chat.app.prompt.exchange("")
            chat.app.prompt.post_message(events.Paste(text))
            await chat.settle()
            assert chat.app.is_running
            assert chat.app.prompt.text == (text if text.startswith("/quit") else f" {text}")
        await chat.press("enter")
        await chat.answered()
        assert chat.questions == ["/* comment */\nint x;"]


async def test_message_refused_comes_back_folded_with_its_reason(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("endless")
        await chat.until(lambda: chat.replies and "word5 " in chat.replies[0])
        chat.app.prompt.post_message(events.Paste(LOG))
        await chat.press("enter", "x")
        await chat.until(lambda: chat.app.prompt.text.startswith("["))
        assert chat.app.prompt.draft in (f"{LOG}x", f"x{LOG}")
        await chat.press("ctrl+u", "y", "enter")
        await chat.until(lambda: "A reply is under way" in chat.screen())


async def test_drafts_are_told_and_exchanged(open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(Talk, "on_prompt_drafted", lambda _, event: told.append(event.text), raising=False)
    async with open_chat() as chat:
        prompt = chat.app.prompt
        prompt.post_message(events.Paste(LOG))
        await chat.press(*"abc")
        await chat.until(lambda: told and told[-1] == f"{LOG}abc")
        assert len(told) <= 2
        await chat.press("d")
        assert prompt.exchange("the other's") == f"{LOG}abcd"
        assert prompt.text == "the other's"
        await asyncio.sleep(0.6)
        assert "the other's" not in told
        await chat.press("ctrl+z", "ctrl+z", "!")
        assert prompt.exchange("") == "the other's!"


async def test_keys_act_in_the_order_they_were_pressed(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        for key in (*"abc", "ctrl+u", *"xy", "left", "z", "backspace", "home", "1", "end", "2", "enter", "n"):
            chat.app.simulate_key(key)
        await chat.until(lambda: chat.questions)
        assert chat.questions == ["1xy2"]
        assert chat.app.prompt.text == "n"


async def test_wide_and_combined_characters_are_typed_and_taken_away(open_chat: OpenChat) -> None:
    async with open_chat(size=(80, 24)) as chat:
        text = "日本語🙂e\u0301👩‍👩‍👧"
        await chat.press(*text)
        assert chat.app.prompt.text == text
        await chat.press("enter")
        await chat.until(lambda: chat.questions == [text])
        await chat.press("up", "home", "delete")
        assert chat.app.prompt.text == text[1:]


async def test_the_box_grows_to_eight_rows(open_chat: OpenChat) -> None:
    async with open_chat(size=(80, 24)) as chat:
        await chat.press(*["ctrl+j"] * 20)
        assert chat.app.prompt.outer_size.height == 8
