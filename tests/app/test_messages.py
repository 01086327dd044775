"""What can be done with messages: answered again, edited, gone on with, browsed, copied, folded, seen raw."""

from __future__ import annotations

import pytest

from medusa_chat import paths
from medusa_chat.app import clipboard
from medusa_chat.app.turns import AssistantTurn, UserTurn
from medusa_chat.history import History
from tests.app.conftest import Chat, OpenChat


async def ask(chat: Chat, *texts: str) -> None:
    for text in texts:
        await chat.send(text)
        await chat.until(
            lambda text=text: chat.questions and chat.questions[-1].startswith(text.split("\n")[0])
        )
        await chat.answered()


async def test_again_keeps_the_answer_of_before(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await ask(chat, "roles", "more roles")
        first = chat.replies
        await chat.press("ctrl+r")
        await chat.until(lambda: "‹ 2/2 ›" in chat.captions[-1])
        assert chat.questions == ["roles", "more roles"]
        assert chat.replies == first
        await chat.press("ctrl+up", "left")
        await chat.until(lambda: "‹ 1/2 ›" in chat.captions[-1])
        await chat.press("right")
        await chat.until(lambda: "‹ 2/2 ›" in chat.captions[-1])
        await chat.press("right")
        assert "‹ 2/2 ›" in chat.captions[-1]
    async with open_chat(resume=True) as chat:
        await chat.until(lambda: len(chat.replies) == 2)
        assert "‹ 2/2 ›" in chat.captions[-1]
    history = History()
    assert len(history.all_messages(history.list()[0].id)) == 5


async def test_an_earlier_answer_again_begins_another_branch(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await ask(chat, "roles", "more roles")
        await chat.press("ctrl+up", "up", "up", "r")
        await chat.until(lambda: chat.questions == ["roles"])
        await chat.answered()
        assert "‹ 2/2 ›" in chat.captions[0]
        await chat.press("ctrl+up", "left")
        await chat.until(lambda: chat.questions == ["roles", "more roles"])


async def test_an_edited_question_is_asked_from_there(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await ask(chat, "roles", "more roles")
        await chat.press("ctrl+up", "up", "up", "up", "e")
        assert chat.app.prompt.has_focus
        assert chat.app.prompt.text == "roles"
        chat.app.prompt.text = "other roles"
        await chat.press("enter")
        await chat.until(lambda: len(chat.questions) == 1 and chat.replies)
        await chat.answered()
        assert chat.replies == ["roles: user=other roles"]
        assert "other roles" in chat.questions[0]
        assert "‹ 2/2 ›" in chat.questions[0]
        await chat.press("ctrl+up", "up", "left")
        await chat.until(lambda: len(chat.questions) == 2)
        assert "‹ 1/2 ›" in chat.questions[0]
        assert chat.replies[1].startswith("roles: user=roles, assistant=roles: user=roles, user=more roles")


async def test_escape_leaves_an_edit(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await ask(chat, "roles")
        await chat.press("ctrl+up", "up", "e")
        await chat.press("escape")
        assert chat.app.prompt.text == ""
        await ask(chat, "more roles")
        assert len(chat.questions) == 2


async def test_an_edit_is_left_with_its_conversation(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await ask(chat, "roles")
        await chat.press("ctrl+up", "up", "e", "ctrl+n")
        await chat.until(lambda: not chat.questions)
        await ask(chat, "other roles")
        assert chat.replies == ["roles: user=other roles"]
    history = History()
    assert [len(history.all_messages(record.id)) for record in history.list()] == [2, 2]


async def test_a_stopped_reply_is_gone_on_with(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("temperature")
        await chat.until(lambda: chat.replies and len(chat.replies[0]) > 20)
        await chat.press("escape")
        await chat.answered()
        before = chat.replies[0]
        assert "■ stopped" in chat.captions[0]
        await chat.press("ctrl+g")
        await chat.until(lambda: chat.app.is_answering)
        await chat.answered()
        # The script answers what the engine was handed: the conversation with the reply so far at its end.
        assert len(chat.replies) == 1
        assert chat.replies[0].startswith(before.rstrip())
        assert "Tree drafting" in chat.replies[0]
        assert "stopped" not in chat.captions[0]
    history = History()
    messages = history.messages(history.list()[0].id)
    assert [message.partial for message in messages] == [False, False]
    assert messages[1].content.startswith(before.rstrip())


async def test_what_cannot_be_done_is_said(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        for key, hint in (("ctrl+r", "nothing to answer again"), ("ctrl+g", "no reply to go on with")):
            await chat.press(key)
            assert hint in str(chat.app.prompt.border_subtitle)
        await chat.press("ctrl+up")
        assert chat.app.prompt.has_focus
        await chat.send("endless")
        await chat.until(lambda: chat.replies)
        await chat.press("ctrl+r")
        assert "Esc stops it" in str(chat.app.prompt.border_subtitle)
        assert len(chat.questions) == len(chat.replies) == 1


async def test_a_message_and_a_block_of_code_are_copied(
    open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clipboard, "_copy_checked", lambda text: False)
    async with open_chat() as chat:
        await ask(chat, "hello")
        await chat.press("ctrl+up", "1")
        await chat.until(lambda: "Sent block 1" in chat.screen())
        assert chat.app.clipboard.startswith("def accept(path, base):")
        assert chat.app.clipboard.endswith("if base(token)]")
        await chat.press("c")
        await chat.until(lambda: "Sent the message" in chat.screen())
        assert chat.app.clipboard.startswith("# Tree drafting")
        await chat.press("up", "c")
        await chat.until(lambda: chat.app.clipboard == "hello")
        await chat.press("escape")
        assert chat.app.prompt.has_focus


async def test_where_a_copy_is_is_said_also_where_it_is_too_long_for_the_box(
    open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clipboard, "_copy_checked", lambda text: False)
    async with open_chat(size=(80, 30)) as chat:
        await ask(chat, "hello")
        await chat.press("ctrl+up", "1")
        file = paths.data_dir() / "copied.md"
        await chat.until(lambda: "Sent block 1 to the terminal" in chat.screen())
        shown = chat.screen()
        assert file.name in shown
        await chat.until(lambda: file.read_text().startswith("def accept"))


async def test_keys_in_haste_are_for_the_message_they_were_meant_for(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await ask(chat, "hello")
        for key in ("ctrl+up", "up", "e"):
            chat.app.simulate_key(key)
        await chat.until(lambda: chat.app.prompt.text == "hello")
        await chat.press("escape")
        for key in ("ctrl+up", "escape", "c", "v"):
            chat.app.simulate_key(key)
        await chat.until(lambda: chat.app.prompt.text == "cv")


async def test_raw_markdown_and_folding(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await ask(chat, "hello")
        assert "**verifies**" not in chat.screen()
        await chat.press("ctrl+up", "v")
        await chat.until(lambda: "**verifies**" in chat.screen() and "| ---- |" in chat.screen())
        await chat.press("v")
        await chat.until(lambda: "**verifies**" not in chat.screen())
        height = chat.app.query_one(AssistantTurn).size.height
        await chat.press("space")
        await chat.until(lambda: chat.app.query_one(AssistantTurn).size.height < min(height, 8))
        assert "folded" in chat.captions[0]
        await chat.press("space")
        await chat.until(lambda: chat.app.query_one(AssistantTurn).size.height == height)


async def test_a_long_message_is_folded_at_first(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await ask(chat, "\n".join(f"line {n}" for n in range(100)) + " empty")
        assert "… 94 more lines" in chat.questions[0]
        assert "line 50" not in chat.questions[0]
        await chat.press("ctrl+up", "up", "space")
        assert "line 99 empty" in chat.questions[0]
        assert chat.app.query_one(UserTurn).size.height == 100


async def test_typing_in_the_prompt_is_never_taken_for_a_key_of_messages(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await ask(chat, "hello")
        await chat.pilot.click(AssistantTurn)
        await chat.press("c", "r", "e")
        assert chat.app.prompt.text == "cre"


async def test_commands_do_what_the_keys_do(open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipboard, "_copy_checked", lambda text: False)
    async with open_chat() as chat:
        for line in ("/edit", "/copy", "/raw"):
            await chat.send(line)
            await chat.until(lambda line=line: chat.app.prompt.text == line)
            assert "none in this conversation yet" in chat.notices[-1]
            chat.app.prompt.text = ""
        await ask(chat, "hello")
        await chat.send("/again")
        await chat.until(lambda: "‹ 2/2 ›" in chat.captions[-1])
        await chat.send("/copy 2")
        await chat.until(lambda: "Blocks of code in the last reply: 1" in chat.notices[-1])
        chat.app.prompt.text = ""
        await chat.send("/copy 1")
        await chat.until(lambda: chat.app.clipboard.startswith("def accept"))
        await chat.send("/copy")
        await chat.until(lambda: chat.app.clipboard.startswith("# Tree"))
        await chat.send("/raw")
        await chat.until(lambda: "**verifies**" in chat.screen())
        await chat.send("/colours")
        await chat.until(lambda: "base model" in chat.captions[-1])
        await chat.send("/continue")
        await chat.until(lambda: chat.replies[-1].count("Tree drafting") == 2)
        await chat.answered()
        await chat.send("/edit")
        await chat.until(lambda: chat.app.prompt.text == "hello")
        await chat.press("escape")
        await chat.send("/race")
        await chat.until(lambda: "as fast" in chat.screen())
