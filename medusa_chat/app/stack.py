"""A column that is cheap to lay out however often it grows."""

from __future__ import annotations

from textual.containers import Vertical
from textual.geometry import Size
from textual.reactive import Reactive


def once_laid_out() -> Reactive[Size]:
    """A widget's virtual_size that, when a layout has changed it, doesn't ask for another one."""
    return Reactive(Size(0, 0))


class Stack(Vertical):
    """For children that are as high as what is in them.

    A Vertical asks them for their height again whenever the height of what it is in has changed: in a chat,
    with every line that streams.
    """

    DEFAULT_CSS = "Stack { height: auto; }"
    virtual_size = once_laid_out()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self.arrange(Size(width, 0)).total_region.height if width else 0
