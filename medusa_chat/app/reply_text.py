"""A reply's text on the screen: cheap to lengthen, however long it is and however it is seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from urllib.parse import urlsplit

from textual.content import Content
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.style import Style
from textual.visual import Visual
from textual.widget import Widget

from medusa_chat.app.conversation import Piece
from medusa_chat.app.part_lines import View, part_lines
from medusa_chat.app.parts import Part, Parts
from medusa_chat.app.sight import Sight
from medusa_chat.app.stack import once_laid_out

_MOST_PARTS = 144
_PARTS_DROPPED = 12  # at once: all that is seen is drawn again
_PARTS_AT_ONCE = 3  # some ms each: a key must not wait for more of them
_TOO_LONG = "The beginning of this reply is too long for the screen. /export writes all of it."
_FAINT = "$foreground 45%"
_OPENED_SCHEMES = ("http", "https")


class ReplyText(Widget):
    """Parts, each a Markdown document: only the last is parsed again as the reply grows, and of its lines
    those are drawn that have changed. Of megabytes only the end stays on the screen.

    One widget: with one for each part, all of which each frame laid out again, 2,000 lines of code made it
    twice as dear. Links open only when they lead to the web, and only on a click.
    """

    virtual_size = once_laid_out()

    def __init__(self, pieces: Sequence[Piece] = ()) -> None:
        super().__init__()
        self._view: View = "rendered"
        self._parts = Parts()
        self._shown: dict[Part, list[Content]] = {}  # with their lines, once there is a width
        self._is_too_long = False
        self._waiting: list[Part] = []
        self._is_showing = False
        self._width = 0
        self._lines: list[Content] = []
        self.feed(pieces)

    @property
    def source(self) -> str:
        """The Markdown that is on the screen."""
        return "".join(part.text for part in self._shown)

    def show_as(self, view: View) -> None:
        """Shows all of it otherwise."""
        if view != self._view:
            self._view = view
            self.set_class(view != "rendered", "-letters")
            self._width = 0
            self.refresh(layout=True)

    def feed(self, pieces: Iterable[Piece]) -> None:
        """Appends to the reply. Much at once is shown bit by bit."""
        self._waiting = list(dict.fromkeys((*self._waiting, *self._parts.grow(pieces))))
        if not self.is_attached:
            self._show(_MOST_PARTS)
        else:
            self.show_more()

    def show_more(self) -> None:
        """Shows what waits, as far as nothing that is looked at has to leave for it."""
        if self._waiting and not self._is_showing:
            self._show_some()

    def _show_some(self) -> None:
        self._is_showing = self._show(_PARTS_AT_ONCE) and bool(self._waiting)
        if self._is_showing:
            self.call_after_refresh(self._show_some)

    def _show(self, number: int) -> bool:
        """Puts so many of the parts that wait on the screen; False where they have to wait on."""
        if len(self._waiting) > _MOST_PARTS and self._drop(len(self._shown)):  # none of them would stay
            self._waiting = self._waiting[-_MOST_PARTS:]
        parts = self._waiting[:number]
        num_over = len(self._shown.keys() | set(parts)) - _MOST_PARTS
        if num_over > 0 and not self._drop(max(num_over, _PARTS_DROPPED)):
            return False
        del self._waiting[:number]
        for part in parts:
            self._shown[part] = self._lines_of(part)
        self._take_lines()
        return True

    def _drop(self, number: int) -> bool:
        """Takes the first parts off the screen, unless somebody looks at them."""
        leaving = list(self._shown)[:number]
        num_lines = len(self._note()) + sum(len(self._shown[part]) for part in leaving)
        sight = next((widget for widget in self.ancestors if isinstance(widget, Sight)), None)
        if sight is not None and num_lines > sight.num_unseen(self):
            return False
        self._is_too_long = True
        for part in leaving:
            del self._shown[part]
        if sight is not None:
            sight.lose_above(num_lines - len(self._note()))
        return True

    # Lines

    def _lines_of(self, part: Part) -> list[Content]:
        return part_lines(part, self._view, self._width) if self._width else []

    def _lines_at(self, width: int) -> list[Content]:
        if width != self._width:
            self._width = width
            self._shown = {part: self._lines_of(part) for part in self._shown}
            self._lines = self._all_lines()
        return self._lines

    def _all_lines(self) -> list[Content]:
        return list(chain(self._note(), *self._shown.values()))

    def _note(self) -> list[Content]:
        """That the beginning has left the screen."""
        if not (self._is_too_long and self._width):
            return []
        return [*Content.styled(_TOO_LONG, _FAINT).wrap(self._width), Content("")]

    def _take_lines(self) -> None:
        """Draws from the first line on that has changed, and lays out where there are more or fewer."""
        if not self._width:
            self.refresh(layout=True)
            return
        before, self._lines = self._lines, self._all_lines()
        # Textual keeps a widget's height while it waits for a layout that it has asked for: what came in
        # between went unmeasured, and a whole reply stood in one line.
        self._box_model_cache.clear()
        num_same = _num_same(before, self._lines)
        changed = Region(0, num_same, self._width, max(len(before), len(self._lines)) - num_same)
        self.refresh(changed, layout=len(before) != len(self._lines))

    # What Textual asks for

    def _size_updated(
        self, size: Size, virtual_size: Size, container_size: Size, layout: bool = True
    ) -> bool:
        if size.width == self._size.width:
            # Textual would forget all lines of a widget that gets higher. Those below its old end are stale:
            # they may have been drawn, empty, before there was room for them.
            end = max(min(size.height, self._size.height) - self.styles.gutter.bottom, 0)
            self._styles_cache.set_dirty(Region(0, end, size.width, size.height - end))
            self._size = size
        return super()._size_updated(size, virtual_size, container_size, layout)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._lines_at(width)) if width else 0

    def render(self) -> Content:
        return Content("\n").join(self._lines_at(self.content_size.width or self._width or 1))

    def render_line(self, y: int) -> Strip:
        width = self.content_size.width
        lines = self._lines_at(width)
        if y >= len(lines):
            return Strip.blank(width, self.visual_style.rich_style)
        line = lines[y]
        if self.text_selection is not None and (span := self.text_selection.get_span(y)) is not None:
            start, end = span
            style = Style.from_styles(self.screen.get_component_styles("screen--selection"))
            line = line.stylize(style, start, len(line.plain) if end == -1 else end)
        (strip,) = Visual.to_strips(self, line, width, 1, self.visual_style, apply_selection=False)
        return strip.apply_offsets(0, y)

    def action_link(self, address: str) -> None:
        if urlsplit(address).scheme in _OPENED_SCHEMES:
            self.app.open_url(address)


def _num_same(before: Sequence[Content], after: Sequence[Content]) -> int:
    """How many lines at the beginning look as they did."""
    pairs = enumerate(zip(before, after, strict=False))
    differing = (number for number, (old, new) in pairs if old is not new and not old.is_same(new))
    return next(differing, min(len(before), len(after)))
