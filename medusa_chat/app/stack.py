"""Columns that are cheap to lay out and to draw however often they grow."""

from __future__ import annotations

from textual.containers import Vertical
from textual.geometry import Region, Size
from textual.reactive import Reactive
from textual.strip import Strip
from textual.widget import Widget


def once_laid_out() -> Reactive[Size]:
    """A widget's virtual_size that, when a layout has changed it, asks for no other one. Nor is the widget to
    be drawn for it: the layout has drawn what moved, and a second time made a key wait twice as long.
    """
    return Reactive(Size(0, 0), repaint=False)


class Even(Widget):
    """For widgets without an edge above or below, in which every line looks the same until others are drawn
    over it: it is drawn once. Of what a line that streams cost, half was drawing each again.

    Stands last among the bases: Textual takes the style sheet of the first.
    """

    def render_lines(self, crop: Region) -> list[Strip]:
        return super().render_lines(Region(crop.x, crop.y, crop.width, 1)) * crop.height


class Stack(Vertical, Even):
    """For children that are as high as what is in them.

    A Vertical asks them for their height again whenever the height of what it is in has changed: in a chat,
    with every line that streams.
    """

    DEFAULT_CSS = "Stack { height: auto; }"
    virtual_size = once_laid_out()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self.arrange(Size(width, 0)).total_region.height if width else 0
