"""The heads at work: replies coloured by whose guess each token was, and a race against plain decoding."""

from __future__ import annotations

from medusa_chat.app.origins import coloured, legend, letters_by_origin, pieces_of, style_of
from medusa_chat.app.race_screen import RaceScreen
from medusa_chat.records import BASE_ORIGIN, LOOKUP_ORIGIN, Chunk, StepStats
from medusa_chat.settings import Settings
from tests.app.conftest import OpenChat

STEP = StepStats(16, 3, 0.02, 10)


def test_text_is_cut_by_origin_before_it_is_made_printable() -> None:
    chunk = Chunk("a\x1bb naïve", (1, 2, 3), STEP, spans=((3, 1), (2, LOOKUP_ORIGIN), (4, BASE_ORIGIN)))
    pieces = list(pieces_of([chunk]))
    assert [origin for _, origin in pieces] == [1, LOOKUP_ORIGIN, BASE_ORIGIN]
    assert pieces[1][0] == " n"
    assert pieces[2][0] == "aïve"
    assert "\x1b" not in pieces[0][0]


def test_each_origin_has_its_colour_and_its_share() -> None:
    pieces = [("from one ", 1), ("base", BASE_ORIGIN), ("said", LOOKUP_ORIGIN), ("two", 2)]
    assert str(coloured(pieces)) == "from one basesaidtwo"
    assert len({style_of(origin) for origin in (BASE_ORIGIN, LOOKUP_ORIGIN, 1, 2, 3, 4, 5)}) == 7
    assert style_of(9) == style_of(5)
    assert str(legend(letters_by_origin(pieces))) == "base model 20%  head 1 45%  head 2 15%  looked up 20%"


async def test_a_key_colours_replies_while_they_stream_and_after(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.press("f10")
        assert "Replies of this session" in str(chat.app.prompt.border_subtitle)
        await chat.send("hello")
        await chat.answered()
        await chat.until(lambda: "**verifies**" in chat.screen())
        assert "base model" in chat.captions[0]
        assert "head 1" in chat.captions[0]
        await chat.press("f10")
        await chat.until(lambda: "**verifies**" not in chat.screen())
        assert "head 1" not in chat.captions[0]
        await chat.press("f10")
        await chat.until(lambda: "**verifies**" in chat.screen())


async def test_the_legend_follows_a_reply_that_streams(open_chat: OpenChat) -> None:
    async with open_chat(size=(60, 24)) as chat:
        await chat.press("f10")
        await chat.send("temperature")
        await chat.until(lambda: chat.captions and "base model" in chat.captions[0])
        assert chat.app.is_answering
        assert "head 1" in chat.screen()
        await chat.press("escape")
        await chat.answered()


async def test_what_was_said_before_this_session_stays_in_a_reply_that_goes_on(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("endless")
        await chat.until(lambda: "word3" in chat.screen())
        await chat.press("escape")
        await chat.answered()
        before = chat.replies[0]
    async with open_chat(resume=True) as chat:
        await chat.until(lambda: chat.replies)
        await chat.press("f10", "ctrl+g")
        await chat.until(lambda: chat.captions and "base model" in chat.captions[0])
        await chat.press("escape")
        await chat.answered()
        assert "word0 word1 word2 word3" in chat.screen()
        assert chat.replies[0].startswith(before)
        assert len(chat.replies[0]) > len(before)


async def test_replies_of_earlier_sessions_stay_as_they_are(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.send("hello")
        await chat.answered()
    async with open_chat(resume=True) as chat:
        await chat.until(lambda: chat.replies)
        await chat.press("f10")
        assert "**verifies**" not in chat.screen()


async def test_race(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        await chat.press("f12")
        assert "Ask something first" in str(chat.app.prompt.border_subtitle)
        await chat.send("hello")
        await chat.answered()
        await chat.press("f12")
        await chat.until(lambda: "as fast" in chat.screen())
        assert isinstance(chat.app.screen, RaceScreen)
        assert "word for word the same" in chat.screen()
        for title in ("Plain decoding", "Medusa"):
            assert title in chat.screen()
        await chat.press("escape")
        await chat.until(lambda: not isinstance(chat.app.screen, RaceScreen))
        assert len(chat.replies) == 1
        await chat.send("roles")
        await chat.answered()
        assert chat.replies[1].startswith("roles: user=hello")


async def test_race_is_left_in_the_middle(open_chat: OpenChat) -> None:
    async with open_chat(settings=Settings()) as chat:
        await chat.send("endless")
        await chat.until(lambda: chat.replies)
        await chat.press("escape")
        await chat.answered()
        await chat.press("f12")
        await chat.until(lambda: "word5" in chat.screen())
        await chat.press("escape")
        await chat.until(lambda: not isinstance(chat.app.screen, RaceScreen))
        await chat.send("roles")
        await chat.answered()
        assert chat.replies[-1].startswith("roles: user=endless")
