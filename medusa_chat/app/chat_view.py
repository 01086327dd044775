"""The conversation on the screen."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from medusa_chat.app.conversation import Turn
from medusa_chat.app.turns import AssistantTurn, Notice, UserTurn

# Laying out costs more with each turn on the screen: hundreds would make typing lag.
_MOST_TURNS = 60
_MOST_TURNS_RESUMED = 30


class ChatView(VerticalScroll):
    """Turns and notices, oldest first. Follows the newest line until the user scrolls away from it."""

    can_focus = False

    def __init__(self) -> None:
        super().__init__()
        # As tall as the view at least: an anchor would push fewer lines down to the bottom.
        self.turns = Vertical(id="turns")
        self._num_hidden = 0

    def compose(self) -> ComposeResult:
        yield self.turns

    async def greet(self, text: str) -> None:
        """Empties the view and shows a greeting, which the first turn replaces."""
        await self.turns.remove_children()
        self._num_hidden = 0
        await self.turns.mount(Static(_greeting(text), id="greeting", markup=False))
        self.anchor()

    def change_greeting(self, text: str) -> None:
        """Changes the greeting, where it still stands."""
        for greeting in self.query("#greeting").results(Static):
            greeting.update(_greeting(text))

    async def show(self, *widgets: Widget) -> None:
        """Appends widgets, and takes the oldest turns off the screen when there are too many."""
        await self.query("#greeting").remove()
        await self.turns.mount_all(widgets)
        await self._drop_oldest()

    async def show_turns(self, turns: Sequence[Turn]) -> None:
        """Appends the last turns of an earlier session."""
        num_left_out = max(len(turns) - _MOST_TURNS_RESUMED, 0)
        await self.show(*(_widget(turn) for turn in turns[num_left_out:]))
        await self._count_hidden(num_left_out)
        self.anchor()

    async def notice(self, text: str, *, is_error: bool = False, before: Widget | None = None) -> None:
        """Says one sentence after the turns, or before one of them. A greeting stays above it."""
        await self.turns.mount(Notice(text, is_error=is_error), before=before)

    def page(self, pages: int) -> None:
        """Scrolls up (-1) or down (1); reaching the end follows the newest line again."""
        (self.scroll_page_up if pages < 0 else self.scroll_page_down)(animate=False)

    async def _drop_oldest(self) -> None:
        widgets = list(self.turns.children)
        places = [
            place for place, widget in enumerate(widgets) if isinstance(widget, UserTurn | AssistantTurn)
        ]
        if num_dropped := max(len(places) - _MOST_TURNS, 0):
            await self.turns.remove_children(widgets[: places[num_dropped]])
            await self._count_hidden(num_dropped)

    async def _count_hidden(self, num_more: int) -> None:
        if num_more:
            self._num_hidden += num_more
            await self.query("#hidden").remove()
            sentence = f"{self._num_hidden} earlier messages are part of the conversation but not shown."
            await self.turns.mount(Notice(sentence, id="hidden"), before=0)


def _greeting(text: str) -> Content:
    return Content.assemble(("medusa-chat", "bold"), f"\n{text}")


def _widget(turn: Turn) -> Widget:
    if turn.role == "user":
        return UserTurn(turn.content)
    return AssistantTurn(turn.content, "■ not finished" if turn.partial else "")
