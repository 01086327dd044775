"""The conversation on the screen."""

from __future__ import annotations

from collections.abc import Sequence

from textual import work
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.geometry import Size
from textual.layout import DockArrangeResult
from textual.widget import Widget
from textual.widgets import Static

from medusa_chat.app.conversation import Turn
from medusa_chat.app.stack import Stack, once_laid_out
from medusa_chat.app.turns import AssistantTurn, Notice, UserTurn

# Laying out costs more with each turn on the screen: hundreds would make typing lag.
_MOST_TURNS = 40
_TURNS_OPENED = 20
_TURNS_AT_FIRST = 6  # fill the screen; the others opened come while these are read
_TURNS_A_GROWTH = 7
_TURNS_BEFORE_FOUND = 4


class ChatView(VerticalScroll):
    """Turns and notices, oldest first. Follows the newest line until the user scrolls away from it.

    Of a long conversation only a part is mounted; what comes before and after it is as one scrolls.
    """

    can_focus = False
    virtual_size = once_laid_out()

    def __init__(self) -> None:
        super().__init__()
        # As tall as the view at least: an anchor would push fewer lines down to the bottom.
        self.turns = Stack(id="turns")
        self._before: list[Turn] = []
        self._after: list[Turn] = []
        self._is_growing = False
        self._lines_below: int | None = None

    def compose(self) -> ComposeResult:
        yield self.turns

    async def greet(self, text: str) -> None:
        """Empties the view and shows a greeting, which the first turn replaces."""
        await self._empty()
        await self.turns.mount(Static(_greeting(text), id="greeting", markup=False))
        self.anchor()

    def change_greeting(self, text: str) -> None:
        """Changes the greeting, where it still stands."""
        for greeting in self.query("#greeting").results(Static):
            greeting.update(_greeting(text))

    async def show(self, *widgets: Widget) -> None:
        """Appends widgets, and takes the oldest turns off the screen when there are too many."""
        await self.query("#greeting").remove()
        if self._after:
            await self.show_turns([*self._before, *self._mounted_turns, *self._after])
        await self.turns.mount_all(widgets)
        await self._drop_oldest()

    async def show_turns(self, turns: Sequence[Turn], found: Turn | None = None) -> None:
        """Shows the end of a conversation, or the part where a turn is that was looked for."""
        await self._empty()
        start, end = max(len(turns) - _TURNS_AT_FIRST, 0), len(turns)
        if found is not None:
            start = max(turns.index(found) - _TURNS_BEFORE_FOUND, 0)
            end = min(start + _TURNS_OPENED, end)
        self._before, self._after = list(turns[:start]), list(turns[end:])
        await self.turns.mount_all(map(_widget, turns[start:end]))
        if found is None:
            self.anchor()
        else:
            self._point_at(found)
        self.call_after_refresh(self._grow_if_few)

    async def notice(self, text: str, *, is_error: bool = False, before: Widget | None = None) -> None:
        """Says one sentence after the turns, or before one of them. A greeting stays above it."""
        await self.turns.mount(Notice(text, is_error=is_error), before=before)

    def page(self, pages: int) -> None:
        """Scrolls up (-1) or down (1); reaching the end follows the newest line again."""
        (self.scroll_page_up if pages < 0 else self.scroll_page_down)(animate=False)

    def point_at(self, turn: Turn) -> bool:
        """Scrolls to a turn and marks it; False where it isn't mounted."""
        is_mounted = turn in self._mounted_turns
        if is_mounted:
            self._point_at(turn)
        return is_mounted

    def _point_at(self, found: Turn) -> None:
        self.anchor(False)
        for widget in self._turn_widgets:
            widget.set_class(widget.turn is found, "-found")
            if widget.turn is found:
                self.call_after_refresh(self.scroll_to_widget, widget, animate=False, top=True)

    async def _empty(self) -> None:
        await self.turns.remove_children()
        self._before, self._after = [], []

    # More of the conversation, as one scrolls

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        page = self.size.height  # ahead of the edge, so that one scrolls on without a stop
        if new_value < old_value and new_value <= page and not self._follows_end:
            self._grow_upwards()
        elif new_value > old_value and new_value >= self.max_scroll_y - page:
            self._grow_downwards()

    @property
    def _follows_end(self) -> bool:
        # Then no user scrolled: a layout did, while blocks of Markdown came in.
        return self._anchored and not self._anchor_released

    def _grow_if_few(self) -> None:
        if len(self._turn_widgets) < _TURNS_OPENED or self.max_scroll_y == 0:
            self._grow_upwards()

    def _grow_upwards(self) -> None:
        if self._before and not self._is_growing:
            self._is_growing = True
            self._mount_earlier()

    def _grow_downwards(self) -> None:
        if self._after and not self._is_growing:
            self._is_growing = True
            self._mount_later()
        elif not self._after and not self.is_anchored and self.scroll_y >= self.max_scroll_y:
            self.anchor()

    @work(group="grow")
    async def _mount_earlier(self) -> None:
        earlier = self._before[-_TURNS_A_GROWTH:]
        del self._before[-_TURNS_A_GROWTH:]
        self._lines_below = round(self.virtual_size.height - self.scroll_y)
        if earlier:
            await self.turns.mount_all(map(_widget, earlier), before=0)
        self.call_after_refresh(self._settle_upwards)

    async def _settle_upwards(self) -> None:
        self._lines_below = None
        await self._drop_newest()
        self._is_growing = False
        self._grow_if_few()

    @work(group="grow")
    async def _mount_later(self) -> None:
        later = self._after[:_TURNS_A_GROWTH]
        del self._after[:_TURNS_A_GROWTH]
        await self.turns.mount_all(map(_widget, later))
        self.call_after_refresh(self._settle_downwards)

    async def _settle_downwards(self) -> None:
        self._lines_below = round(self.virtual_size.height - self.scroll_y)
        await self._drop_oldest()
        self.call_after_refresh(self._end_settling)

    def _end_settling(self) -> None:
        self._lines_below = None
        self._is_growing = False

    def arrange(self, size: Size, optimal: bool = False) -> DockArrangeResult:
        """Keeps what is seen in its place while turns above it come or go, in the same frame."""
        arranged = super().arrange(size, optimal)
        if self._lines_below is not None and not optimal:
            y = max(arranged.total_region.bottom - self._lines_below, 0)
            self.set_reactive(Widget.scroll_y, y)
            self.set_reactive(Widget.scroll_target_y, y)
        return arranged

    @property
    def _turn_widgets(self) -> list[UserTurn | AssistantTurn]:
        return [child for child in self.turns.children if isinstance(child, UserTurn | AssistantTurn)]

    @property
    def _mounted_turns(self) -> list[Turn]:
        return [widget.turn for widget in self._turn_widgets if widget.turn is not None]

    async def _drop_oldest(self) -> None:
        widgets = self._turn_widgets
        if num_dropped := max(len(widgets) - _MOST_TURNS, 0):
            self._before += [widget.turn for widget in widgets[:num_dropped] if widget.turn is not None]
            children = list(self.turns.children)
            await self.turns.remove_children(children[: children.index(widgets[num_dropped])])

    async def _drop_newest(self) -> None:
        widgets = self._turn_widgets
        dropped = widgets[_MOST_TURNS:]
        if not dropped or not all(_is_settled(widget) for widget in dropped):
            return
        self.anchor(False)
        self._after[:0] = [widget.turn for widget in dropped if widget.turn is not None]
        children = list(self.turns.children)
        await self.turns.remove_children(children[children.index(dropped[0]) :])


def _is_settled(widget: UserTurn | AssistantTurn) -> bool:
    return isinstance(widget, UserTurn) or widget.is_settled


def _greeting(text: str) -> Content:
    return Content.assemble(("medusa-chat", "bold"), f"\n{text}")


def _widget(turn: Turn) -> Widget:
    return UserTurn(turn) if turn.role == "user" else AssistantTurn(turn, turn.caption)
