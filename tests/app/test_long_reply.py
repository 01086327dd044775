"""A reply longer than the screen keeps: its beginning leaves, and nobody who reads sees anything move."""

from __future__ import annotations

from typing import Any

import pytest

from medusa_chat.app.turns import AssistantTurn
from tests.app.conftest import Chat, OpenChat

_LINES_A_GROWTH = 100
_LINES_KEPT = 3000  # about


class Reply:
    """One whose lines are numbered."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.widget: AssistantTurn = chat.view.new_reply("")
        self.num_lines = 0

    async def grow(self, num_lines: int = _LINES_A_GROWTH) -> None:
        """By so many lines, those of blank ones included."""
        for _ in range(num_lines // _LINES_A_GROWTH):
            numbers = range(self.num_lines, self.num_lines + _LINES_A_GROWTH, 2)
            self.num_lines += _LINES_A_GROWTH
            self.widget.feed([("".join(f"line {number}\n\n" for number in numbers), None)])
            await self.chat.settle()

    def begins_with(self, text: str) -> bool:
        return self.chat.replies[-1].startswith(text)

    @property
    def is_at_its_end(self) -> bool:
        return f"line {self.num_lines - 2}" in self.chat.screen()


def _frames(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The upper half of the chat as each frame from now on draws it."""
    frames: list[list[str]] = []
    display = chat.app._display

    def noting(*drawn: Any) -> None:
        frames.append(_top(chat))
        display(*drawn)

    monkeypatch.setattr(chat.app, "_display", noting)
    return frames


async def _begun(chat: Chat) -> Reply:
    reply = Reply(chat)
    await chat.view.show(reply.widget)
    chat.view.anchor()
    await reply.grow(_LINES_KEPT - 500)
    await chat.until(lambda: reply.is_at_its_end)
    return reply


def _top(chat: Chat) -> list[str]:
    """What stands in the upper half of the chat."""
    return [row[:60] for row in chat.screen().splitlines()[:16]]


async def test_what_is_read_stays_where_it_is_while_the_beginning_leaves(
    open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_chat() as chat:
        reply = await _begun(chat)
        for _ in range(10):
            await chat.press("pageup")
        top, scrolled = _top(chat), chat.view.scroll_y
        assert any("line " in row for row in top)
        frames = _frames(chat, monkeypatch)
        await reply.grow(_LINES_KEPT // 2)
        assert not reply.begins_with("line 0\n")
        assert chat.view.scroll_y < scrolled  # with what left
        assert frames
        assert all(frame == top for frame in frames)


async def test_nothing_leaves_that_is_looked_at_and_what_waits_comes_when_one_scrolls_on(
    open_chat: OpenChat,
) -> None:
    async with open_chat() as chat:
        reply = await _begun(chat)
        chat.view.scroll_home(animate=False)
        await chat.settle()
        top = _top(chat)
        await reply.grow(2 * _LINES_KEPT)
        assert _top(chat) == top
        assert reply.begins_with("line 0\n")
        reply.widget.finish("")
        assert chat.view.max_scroll_y < _LINES_KEPT + 500
        chat.view.scroll_relative(y=1000, animate=False)  # reads on: the next lines follow the last
        await chat.until(lambda: not reply.begins_with("line 0\n"))
        numbers = [int(line[5:]) for line in chat.replies[-1].split("\n\n") if line]
        assert numbers == list(range(numbers[0], numbers[-1] + 1, 2))
        chat.view.scroll_end(animate=False)
        await chat.until(lambda: reply.is_at_its_end)
