"""What is kept with each conversation: its options, and what was typed and not sent."""

from __future__ import annotations

from medusa_chat.history import History
from medusa_chat.records import SamplingOptions
from medusa_chat.settings import Settings
from tests.app.conftest import Chat, OpenChat


async def ask(chat: Chat, text: str) -> None:
    await chat.send(text)
    await chat.until(lambda: chat.questions and chat.questions[-1].endswith(text))
    await chat.answered()
    await chat.until(lambda: chat.app.talk.conversation.is_stored)


async def open_other(chat: Chat, conversation_id: int) -> None:
    chat.app.sidebar.post_message(chat.app.sidebar.Opened(conversation_id, None))
    await chat.until(lambda: chat.app.talk.conversation.id == conversation_id)
    await chat.settle()


async def test_each_conversation_has_its_options(open_chat: OpenChat) -> None:
    settings = Settings(sampling=SamplingOptions(temperature=0.3))
    async with open_chat(settings=settings) as chat:
        await ask(chat, "roles")
        first = chat.app.talk.conversation.id
        await chat.press("f3", "f9")
        await chat.press("ctrl+n")
        await chat.until(lambda: not chat.questions)
        assert chat.app.talk.options == SamplingOptions(temperature=0.4, drafting=False)
        await chat.press("f3", "f9")
        await ask(chat, "more roles")
        await open_other(chat, first)
        assert chat.app.talk.options == SamplingOptions(temperature=0.4, drafting=False)
        assert "Temperature 0.40" in " ".join(chat.panel().split())
    async with open_chat(resume=True, settings=settings) as chat:
        await chat.until(lambda: chat.questions)
        assert chat.app.talk.options == SamplingOptions(temperature=0.5)


async def test_one_without_options_of_its_own_follows_the_settings(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await ask(chat, "roles")
    async with open_chat(resume=True, settings=Settings(sampling=SamplingOptions(top_k=7))) as chat:
        await chat.until(lambda: chat.questions)
        assert chat.app.talk.options.top_k == 7


async def test_options_that_are_not_known_here_are_told(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await ask(chat, "roles")
        chat.history.set_options(chat.app.talk.conversation.id or 0, '{"temperature": 0.9, "vibe": 3}')
    async with open_chat(resume=True) as chat:
        await chat.until(lambda: chat.notices)
        assert "ignored: vibe" in chat.notices[0]
        assert chat.app.talk.options.temperature == 0.9


async def test_what_was_typed_stays_with_its_conversation(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await ask(chat, "roles")
        first = chat.app.talk.conversation.id
        chat.app.prompt.insert("not yet\nsent")
        await chat.press("ctrl+n")
        await chat.until(lambda: not chat.questions)
        assert chat.app.prompt.text == ""
        chat.app.prompt.insert("another thought")
        await open_other(chat, first)
        assert chat.app.prompt.text == "not yet\nsent"
        await chat.until(lambda: chat.history.draft(None) == "another thought")
    async with open_chat() as chat:
        await chat.until(lambda: chat.app.prompt.text == "another thought")
        await ask(chat, " empty")
        assert History().draft(None) == ""
    async with open_chat() as chat:
        await chat.settle()
        assert chat.app.prompt.text == ""


async def test_up_brings_back_what_was_asked_in_any_conversation(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await ask(chat, "roles")
        await chat.press("ctrl+n")
        await ask(chat, "empty")
    async with open_chat() as chat:
        await chat.press("up")
        await chat.until(lambda: chat.app.prompt.text == "empty")
        await chat.press("up")
        assert chat.app.prompt.text == "roles"
        await chat.press("down", "down")
        assert chat.app.prompt.text == ""
