"""A reply's text on the screen: cheap to lengthen, however long it is and however it is seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from textual.app import ComposeResult
from textual.widgets import Static

from medusa_chat.app.conversation import Piece
from medusa_chat.app.parts import Part, Parts
from medusa_chat.app.safe_markdown import SafeMarkdown, View
from medusa_chat.app.stack import Stack

_PARTS_A_SHELF = 12
_MOST_SHELVES = 12
_MOST_PARTS = _MOST_SHELVES * _PARTS_A_SHELF
_PARTS_AT_ONCE = 3  # some ms each: a key must not wait for more of them
_TOO_LONG = "The beginning of this reply is too long for the screen. /export writes all of it."


class Shelf(Stack):
    """Some parts: a full one is no more work to lay out than one widget."""

    def __init__(self) -> None:
        super().__init__()
        self.views: dict[Part, SafeMarkdown] = {}

    def compose(self) -> ComposeResult:
        yield from self.views.values()

    def is_full_without(self, part: Part) -> bool:
        return part not in self.views and len(self.views) >= _PARTS_A_SHELF

    def show(self, part: Part, seen_as: View) -> None:
        """Shows the part as it is now, below the others where it is new."""
        view = self.views.get(part)
        if view is None:
            view = self.views[part] = SafeMarkdown(seen_as)
            if self.is_attached:
                self.mount(view)
        view.show(part)


class ReplyText(Stack):
    """Parts, each a Markdown document: only the last is parsed and drawn again as the reply grows.

    Of megabytes only the end stays on the screen.
    """

    def __init__(self, pieces: Sequence[Piece] = ()) -> None:
        super().__init__()
        self._view: View = "rendered"
        self._parts = Parts()
        self._shelves: list[Shelf] = []
        self._too_long = Static(_TOO_LONG, classes="too-long", markup=False)
        self._too_long.display = False
        self._waiting: list[Part] = []
        self.feed(pieces)

    def compose(self) -> ComposeResult:
        yield self._too_long
        yield from self._shelves

    @property
    def source(self) -> str:
        """The Markdown that is on the screen."""
        return "".join(view.source for shelf in self._shelves for view in shelf.views.values())

    def show_as(self, view: View) -> None:
        """Shows all of it otherwise."""
        if view != self._view:
            self._view = view
            self.set_class(view != "rendered", "-letters")
            for shelf in self._shelves:
                for part in shelf.views.values():
                    part.show_as(view)

    def feed(self, pieces: Iterable[Piece]) -> None:
        """Appends to the reply. Much at once is shown bit by bit."""
        is_showing = bool(self._waiting)
        parts = list(dict.fromkeys((*self._waiting, *self._parts.grow(pieces))))
        if len(parts) > _MOST_PARTS:
            self._too_long.display = True
            self._drop_shelves(len(self._shelves))  # none of their parts would stay
        self._waiting = parts[-_MOST_PARTS:]
        if not self.is_attached:
            self._show(len(parts))
        elif not is_showing:
            self._show_some()

    def lay_out_end(self) -> None:
        """Has the last parts measured once more. Textual caches a widget's height while it waits for a layout
        that it has asked for: what it gets in between may go unmeasured, and a whole reply stood in one line.
        """
        for shelf in self._shelves[-1:]:
            for view in shelf.views.values():
                view.refresh(layout=True)

    def _show_some(self) -> None:
        self._show(_PARTS_AT_ONCE)
        if self._waiting:
            self.call_after_refresh(self._show_some)

    def _show(self, number: int) -> None:
        """Puts so many of the parts that wait on the screen."""
        parts, self._waiting = self._waiting[:number], self._waiting[number:]
        for part in parts:
            if not self._shelves or self._shelves[-1].is_full_without(part):
                self._add_shelf()
            self._shelves[-1].show(part, self._view)

    def _add_shelf(self) -> None:
        shelf = Shelf()
        self._shelves.append(shelf)
        if self.is_attached:
            self.mount(shelf)
        self._drop_shelves(len(self._shelves) - _MOST_SHELVES)

    def _drop_shelves(self, number: int) -> None:
        dropped = self._shelves[: max(number, 0)]
        del self._shelves[: len(dropped)]
        for shelf in dropped:
            self._too_long.display = True
            if shelf.is_attached:
                shelf.remove()
