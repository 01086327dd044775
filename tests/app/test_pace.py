"""What is drawn and handed on at once stays small, so that a key never waits long."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from typing import get_args

import pytest
from textual.widget import Widget

from medusa_chat.app.chat_view import ChatView
from medusa_chat.app.conversation import Conversation
from medusa_chat.app.engine_link import EngineLink
from medusa_chat.app.messages import ReplyEnded, ReplyGrew
from medusa_chat.app.part_lines import View
from medusa_chat.app.parts import Part
from medusa_chat.app.reply_text import ReplyText
from medusa_chat.app.stack import Stack
from medusa_chat.app.turns import AssistantTurn
from medusa_chat.bench.scripted_engine import FLOOD_BYTES
from medusa_chat.commands.scripted_chat import ENGINE_COMMAND
from medusa_chat.engine.process import EngineProcess
from medusa_chat.records import LoadRequest, Message, SamplingOptions
from tests.app.conftest import OpenChat

_CODE = "```python\n" + "".join(f"line({number})\n" for number in range(2000)) + "```\n"


async def test_a_line_that_streams_has_no_container_drawn_line_by_line(
    open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_chat() as chat:
        reply = chat.view.new_reply("")
        await chat.view.show(reply)
        reply.feed([(f"{number}. paragraph\n\n", None) for number in range(30)])
        await chat.until(lambda: "29. paragraph" in chat.screen())
        drawn: Counter[str] = Counter()
        draw = Widget.render_line

        def counting(widget: Widget, y: int) -> object:
            drawn[type(widget).__name__] += isinstance(widget, Stack | ChatView)
            return draw(widget, y)

        monkeypatch.setattr(Widget, "render_line", counting)
        bottom = chat.view.max_scroll_y
        reply.feed([("Another.\n\n", None)])
        await chat.until(lambda: chat.view.max_scroll_y > bottom)
        assert drawn["AssistantTurn"] > 0
        assert max(drawn.values()) <= 5  # lines; as many frames, at most


@pytest.mark.parametrize("view", get_args(View))
async def test_a_growth_draws_the_last_part_only(
    view: View, open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_chat() as chat:
        reply = AssistantTurn(Conversation().add("assistant", "Begun. "))
        await chat.view.show(reply)
        reply.show_as(view)
        reply.feed([(f"{number}. paragraph\n\n", 1) for number in range(200)])
        await chat.until(lambda: "199. paragraph" in chat.screen())
        parsed: set[Part] = set()
        drawn: list[int] = []
        parse, draw = ReplyText._lines_of, ReplyText.render_line
        monkeypatch.setattr(
            ReplyText, "_lines_of", lambda text, part: (parsed.add(part), parse(text, part))[1]
        )
        monkeypatch.setattr(ReplyText, "render_line", lambda text, y: (drawn.append(y), draw(text, y))[1])
        reply.feed([("The end.\n", 1)])
        await chat.until(lambda: "The end." in chat.screen())
        assert 1 <= len(parsed) <= 2  # one may be full, and another one begun
        assert 1 <= len(set(drawn)) <= 3


async def test_much_text_at_once_is_shown_bit_by_bit(
    open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []
    show = ReplyText._show
    monkeypatch.setattr(ReplyText, "_show", lambda text, number: (numbers.append(number), show(text, number)))
    async with open_chat() as chat:
        reply = chat.view.new_reply("")
        await chat.view.show(reply)
        reply.feed([(_CODE, None)])
        assert chat.replies[-1].count("line(") <= 60
        reply.feed([("And then.\n", None)])
        await chat.until(lambda: chat.replies[-1] == f"{_CODE}And then.\n")
        assert max(numbers[1:]) <= 3  # the first is that of the empty reply
        await chat.until(lambda: "And then." in chat.screen() and "line(1999)" in chat.screen())


async def test_a_flood_is_handed_on_in_pieces_between_which_others_have_their_turn() -> None:
    engine = EngineProcess(ENGINE_COMMAND)
    link = EngineLink(engine)
    lengths: list[int] = []
    num_turns, turns_between = 0, []
    ended = asyncio.Event()

    def post(message: object) -> bool:
        match message:
            case ReplyGrew(chunks=chunks):
                lengths.append(sum(len(chunk.text) for chunk in chunks))
                turns_between.append(num_turns)
            case ReplyEnded():
                ended.set()
        return True

    running = asyncio.create_task(link.run())
    link.load(LoadRequest("scripted"), post)
    link.ask((Message("user", "flood"),), SamplingOptions(), post)
    while not ended.is_set():
        num_turns += 1
        await asyncio.sleep(0)
    running.cancel()
    await engine.close()
    assert sum(lengths) >= FLOOD_BYTES
    assert max(lengths) < 100_000
    assert len(set(turns_between)) == len(turns_between)


def test_the_first_reply_finds_everything_imported() -> None:
    program = "from medusa_chat.app.part_lines import warm_up; warm_up(); import sys; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"medusa_chat.app.markdown_lines", "pygments.lexers.python"} <= set(ended.stdout.split())


async def test_text_is_selected_by_the_mouse_across_parts_after_scrolling(open_chat: OpenChat) -> None:
    async with open_chat() as chat:
        reply = chat.view.new_reply("")
        await chat.view.show(reply)
        reply.feed([("".join(f"paragraph number {number}\n\n" for number in range(60)), None)])
        await chat.until(lambda: "paragraph number 59" in chat.screen())
        chat.view.scroll_relative(y=-12, animate=False)
        await chat.until(lambda: "paragraph number 59" not in chat.screen())
        rows = chat.screen().splitlines()
        top = next(y for y, row in enumerate(rows) if "paragraph number" in row)
        left = rows[top].index("paragraph")
        first = int(rows[top].split("paragraph number ")[1].split()[0])
        await chat.pilot.mouse_down(offset=(left, top))
        await chat.pilot.hover(offset=(left + len("paragraph"), top + 4))
        await chat.pilot.mouse_up(offset=(left + len("paragraph"), top + 4))
        selected = chat.app.screen.get_selected_text()
        assert selected is not None
        assert selected.split("\n\n")[:2] == [f"paragraph number {first}", f"paragraph number {first + 1}"]
        assert selected.split("\n\n")[2].startswith("paragraph")
