"""A reply's Markdown on the screen: cheap to lengthen, however long it is."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.widgets import Static

from medusa_chat.app.parts import Part, Parts
from medusa_chat.app.safe_markdown import SafeMarkdown
from medusa_chat.app.stack import Stack
from medusa_chat.printable import printable

_PARTS_A_SHELF = 12
_MOST_SHELVES = 20
_TOO_LONG = "The beginning of this reply is too long for the screen. /export writes all of it."


class Shelf(Stack):
    """Some parts: a full one is no more work to lay out than one widget."""

    def __init__(self) -> None:
        super().__init__()
        self.views: dict[Part, SafeMarkdown] = {}

    def compose(self) -> ComposeResult:
        yield from self.views.values()

    def show(self, part: Part) -> None:
        """Shows the part as it is now, below the others where it is new."""
        view = self.views.get(part)
        if view is None:
            view = self.views[part] = SafeMarkdown()
            if self.is_attached:
                self.mount(view)
        view.show(part)


class ReplyText(Stack):
    """Parts, each a Markdown document: only the last is parsed and drawn again as the reply grows.

    Of megabytes only the end stays on the screen.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self._parts = Parts()
        self._shelves = [Shelf()]
        self._too_long = Static(_TOO_LONG, classes="too-long", markup=False)
        self._too_long.display = False
        self.feed(text)

    def compose(self) -> ComposeResult:
        yield self._too_long
        yield from self._shelves

    @property
    def source(self) -> str:
        """The Markdown that is on the screen."""
        return "".join(view.source for shelf in self._shelves for view in shelf.views.values())

    def feed(self, text: str) -> None:
        """Appends to the reply."""
        parts = list(dict.fromkeys(self._parts.grow(printable(text))))
        for part in parts[-_PARTS_A_SHELF * _MOST_SHELVES :]:
            shelf = self._shelves[-1]
            if part not in shelf.views and len(shelf.views) == _PARTS_A_SHELF:
                shelf = self._add_shelf()
            shelf.show(part)

    def _add_shelf(self) -> Shelf:
        shelf = Shelf()
        self._shelves.append(shelf)
        if self.is_attached:
            self.mount(shelf)
        if len(self._shelves) > _MOST_SHELVES:
            self._too_long.display = True
            oldest = self._shelves.pop(0)
            if oldest.is_attached:
                oldest.remove()
        return shelf
