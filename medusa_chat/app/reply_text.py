"""A reply's Markdown on the screen: cheap to lengthen, however long it is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Static

from medusa_chat.app.parts import Part, Parts
from medusa_chat.app.safe_markdown import SafeMarkdown
from medusa_chat.printable import printable

_MOST_PARTS = 100
_TOO_LONG = "The beginning of this reply is too long for the screen. /export writes all of it."


class PartView(Vertical):
    """One part. Folded it is empty, but as high as before: every widget that is laid out makes typing slower."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part
        self._markdown = SafeMarkdown()

    def compose(self) -> ComposeResult:
        yield self._markdown

    @property
    def is_folded(self) -> bool:
        return not self._markdown.display

    def fold(self) -> None:
        """To be seen no more, until it is unfolded."""
        if self.size.height and not self.is_folded:
            self.styles.height = self.size.height
            self._markdown.display = False

    def unfold(self) -> None:
        if self.is_folded:
            self._markdown.display = True
            self.styles.height = None

    async def grow(self) -> None:
        """Shows what has been added to the part."""
        await self._markdown.append(self.part.source[len(self._markdown.source) :])
        self._mark_first()

    async def settle(self) -> None:
        """Shows the part as one document: pieces may have split a block."""
        await self._markdown.update(self.part.source)
        self._mark_first()

    def go_on(self) -> None:
        """Leaves no room below the last block, which goes on in the next part."""
        for block in self._markdown.children[-1:]:
            block.add_class("-goes-on")

    def _mark_first(self) -> None:
        for block in self._markdown.children[:1]:
            block.set_class(self.part.went_on, "-went-on")


class ReplyText(Vertical):
    """Parts, each a Markdown document: only the last is parsed and laid out again as the reply grows.

    Of megabytes only the end stays on the screen.
    """

    class Parted(Message):
        """There are more parts on the screen than before."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self._parts = Parts()
        self._shown: dict[Part, PartView] = {}
        self._pending = printable(text)
        self._growing: asyncio.Task[None] | None = None
        self._too_long = Static(_TOO_LONG, classes="too-long", markup=False)

    def compose(self) -> ComposeResult:
        self._too_long.display = False
        yield self._too_long

    async def on_mount(self) -> None:
        await self._grow()

    @property
    def parts(self) -> Iterable[PartView]:
        """Those on the screen, from top to bottom."""
        return self._shown.values()

    def feed(self, text: str) -> None:
        """Appends, once what was fed before is on the screen."""
        self._pending += printable(text)
        if self._growing is None:
            self._growing = asyncio.create_task(self._grow())

    async def finish(self) -> None:
        """Shows what isn't yet shown, and the last part as one document: pieces may have split a block."""
        if self._growing is not None:
            await self._growing
        if (view := self._shown.get(self._parts.last)) is not None:
            await view.settle()

    async def _grow(self) -> None:
        while self._pending:
            text, self._pending = self._pending, ""
            parts = list(dict.fromkeys(self._parts.grow(text)))
            if len(parts) > _MOST_PARTS:  # none of those that are on the screen will stay
                await self._drop(len(self._shown))
            for part in parts[-_MOST_PARTS:]:
                await self._show(part)
        self._growing = None

    async def _show(self, part: Part) -> None:
        if part not in self._shown:
            await self._begin(part)
        await self._shown[part].grow()

    async def _begin(self, part: Part) -> None:
        if part.went_on and self._shown:
            next(reversed(self._shown.values())).go_on()
        view = self._shown[part] = PartView(part)
        await self.mount(view)
        await self._drop(len(self._shown) - _MOST_PARTS)
        self.post_message(self.Parted())

    async def _drop(self, number: int) -> None:
        dropped = list(self._shown)[: max(number, 0)]
        self._too_long.display = self._too_long.display or bool(dropped)
        for part in dropped:
            await self._shown.pop(part).remove()
