"""A reply's Markdown on the screen: cheap to lengthen, however long it is."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from medusa_chat.app.parts import Part, Parts
from medusa_chat.app.safe_markdown import SafeMarkdown
from medusa_chat.printable import printable

_MOST_PARTS = 250
_TOO_LONG = "The beginning of this reply is too long for the screen. /export writes all of it."


class ReplyText(Vertical):
    """Parts, each a Markdown document: only the last is parsed and drawn again as the reply grows.

    Of megabytes only the end stays on the screen.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self._parts = Parts()
        self._shown: dict[Part, SafeMarkdown] = {}
        self._too_long = Static(_TOO_LONG, classes="too-long", markup=False)
        self._too_long.display = False
        self._add(printable(text))

    def compose(self) -> ComposeResult:
        yield self._too_long
        yield from self._shown.values()

    @property
    def source(self) -> str:
        """The Markdown that is on the screen."""
        return "".join(view.source for view in self._shown.values())

    def feed(self, text: str) -> None:
        """Appends to the reply."""
        before = list(self._shown.values())
        self._add(printable(text))
        after = list(self._shown.values())
        # Even nothing, mounted or removed, would be a layout.
        if new := [view for view in after if view not in before]:
            self.mount_all(new)
        if gone := [view for view in before if view not in after]:
            self.remove_children(gone)

    def _add(self, text: str) -> None:
        for part in list(dict.fromkeys(self._parts.grow(text)))[-_MOST_PARTS - 1 :]:
            if part not in self._shown:
                self._shown[part] = SafeMarkdown()
            self._shown[part].show(part)
        for part in list(self._shown)[:-_MOST_PARTS]:
            del self._shown[part]
            self._too_long.display = True
