"""The conversation on the screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textual import work
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget
from textual.widgets import Static

from medusa_chat.app.conversation import Turn
from medusa_chat.app.part_lines import View
from medusa_chat.app.sight import Sight
from medusa_chat.app.stack import Even, once_laid_out
from medusa_chat.app.turn_list import MessageWidget, TurnList
from medusa_chat.app.turns import AssistantTurn, Notice, UserTurn

# Laying out costs more with each turn on the screen: hundreds would make typing lag.
_MOST_TURNS = 40
_TURNS_OPENED = 20
_TURNS_AT_FIRST = 6  # fill the screen; the others opened come while these are read
_TURNS_A_GROWTH = 7
_TURNS_BEFORE_FOUND = 4


class ChatView(VerticalScroll, Sight, Even):
    """Turns and notices, oldest first. Follows the newest line until the user scrolls away from it.

    Of a long conversation only a part is mounted; what comes before and after it is as one scrolls.
    """

    can_focus = False
    virtual_size = once_laid_out()

    def __init__(self, place_of: Callable[[Turn], str]) -> None:
        """place_of: where a turn stands among its alternatives, such as "2/3"; '' without any."""
        super().__init__()
        self._place_of = place_of
        # As tall as the view at least: an anchor would push fewer lines down to the bottom.
        self.turns = TurnList(id="turns")
        self._before: list[Turn] = []
        self._after: list[Turn] = []
        self._view: View = "rendered"
        self._is_growing = False

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
        await self.turns.mount_all(map(self.widget_of, turns[start:end]))
        if found is None:
            self.anchor()
        else:
            self._point_at(found)
        self.call_after_refresh(self._grow_if_few)

    async def keep_only(self, turns: Sequence[Turn]) -> None:
        """Takes the end of a branch off the screen, where another one is to grow. turns: what stays."""
        kept = set(turns)
        self._after = [turn for turn in self._after if turn in kept]
        children = list(self.turns.children)
        first = next((w for w in self.turns.messages if w.turn is not None and w.turn not in kept), None)
        if first is not None:
            await self.turns.remove_children(children[children.index(first) :])
        if self._before and not self.turns.messages:
            await self.show_turns(turns)

    def widget_of(self, turn: Turn) -> MessageWidget:
        """A widget that shows the turn."""
        place = self._place_of(turn)
        if turn.role == "user":
            return UserTurn(turn, place)
        return self._as_viewed(AssistantTurn(turn, turn.caption, place))

    def new_reply(self, caption: str) -> AssistantTurn:
        """A widget for one that is yet to come."""
        return self._as_viewed(AssistantTurn(caption=caption))

    @property
    def view(self) -> View:
        """How replies are seen."""
        return self._view

    @view.setter
    def view(self, view: View) -> None:
        self._view = view
        for widget in self.turns.messages:
            if isinstance(widget, AssistantTurn):
                self._as_viewed(widget)

    def _as_viewed(self, widget: AssistantTurn) -> AssistantTurn:
        widget.show_as(self._view)
        return widget

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

    def select(self, turn: Turn) -> None:
        """Gives a mounted message the keys."""
        for widget in self.turns.messages:
            if widget.turn is turn:
                self.screen.set_focus(widget, scroll_visible=False)

    def toggle_raw(self, turn: Turn) -> None:
        """Shows a mounted reply's Markdown as it was written, or rendered."""
        for widget in self.turns.messages:
            if isinstance(widget, AssistantTurn) and widget.turn is turn:
                widget.toggle_raw()

    def _point_at(self, found: Turn) -> None:
        self.anchor(False)
        for widget in self.turns.messages:
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
        # While it follows, no user scrolled: a layout did, while blocks of Markdown came in.
        if new_value < old_value and new_value <= page and not self.follows_end:
            self._grow_upwards()
        elif new_value > old_value and new_value >= self.max_scroll_y - page:
            self._grow_downwards()
        self._show_more_of_replies()

    def anchor(self, anchor: bool = True) -> None:
        super().anchor(anchor)
        self._show_more_of_replies()

    def _show_more_of_replies(self) -> None:
        for widget in self.turns.messages:
            if isinstance(widget, AssistantTurn):
                widget.show_more()

    def _grow_if_few(self) -> None:
        if len(self.turns.messages) < _TURNS_OPENED or self.max_scroll_y == 0:
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
        self.hold_lines_below()
        if earlier:
            await self.turns.mount_all(map(self.widget_of, earlier), before=0)
        self.call_after_refresh(self._settle_upwards)

    async def _settle_upwards(self) -> None:
        self.release_lines_below()
        await self._drop_newest()
        self._is_growing = False
        self._grow_if_few()

    @work(group="grow")
    async def _mount_later(self) -> None:
        later = self._after[:_TURNS_A_GROWTH]
        del self._after[:_TURNS_A_GROWTH]
        await self.turns.mount_all(map(self.widget_of, later))
        self.call_after_refresh(self._settle_downwards)

    async def _settle_downwards(self) -> None:
        self.hold_lines_below()
        await self._drop_oldest()
        self.call_after_refresh(self._end_settling)

    def _end_settling(self) -> None:
        self.release_lines_below()
        self._is_growing = False

    def _scroll_update(self, virtual_size: Size) -> None:
        super()._scroll_update(virtual_size)
        # The layout that it follows draws all of the view. Textual would draw the bar again in a next frame.
        self.vertical_scrollbar._repaint_required = False

    @property
    def _mounted_turns(self) -> list[Turn]:
        return [widget.turn for widget in self.turns.messages if widget.turn is not None]

    async def _drop_oldest(self) -> None:
        widgets = self.turns.messages
        if num_dropped := max(len(widgets) - _MOST_TURNS, 0):
            self._before += [widget.turn for widget in widgets[:num_dropped] if widget.turn is not None]
            children = list(self.turns.children)
            await self.turns.remove_children(children[: children.index(widgets[num_dropped])])

    async def _drop_newest(self) -> None:
        widgets = self.turns.messages
        dropped = widgets[_MOST_TURNS:]
        if not dropped or not all(_is_settled(widget) for widget in dropped):
            return
        self.anchor(False)
        self._after[:0] = [widget.turn for widget in dropped if widget.turn is not None]
        children = list(self.turns.children)
        await self.turns.remove_children(children[children.index(dropped[0]) :])


def _is_settled(widget: MessageWidget) -> bool:
    return isinstance(widget, UserTurn) or widget.is_settled


def _greeting(text: str) -> Content:
    return Content.assemble(("medusa-chat", "bold"), f"\n{text}")
