"""What is looked at stays in its place, whatever comes and goes above it."""

from __future__ import annotations

import sys

from textual.geometry import Size
from textual.layout import DockArrangeResult
from textual.scrollbar import ScrollBar
from textual.widget import Widget


class Sight(Widget):
    """For a view that scrolls one column: what leaves it says so, and the same layout scrolls by as much."""

    _num_gone = 0  # lines above what is looked at, since the last layout
    _lines_below: int | None = None

    @property
    def follows_end(self) -> bool:
        """It shows the newest line, and the next one when that comes."""
        return self._anchored and not self._anchor_released

    def num_unseen(self, widget: Widget) -> int:
        """How many of its first lines may go with nobody looking at them or at something above them."""
        if self.follows_end:
            return sys.maxsize
        if self.app.animator.is_being_animated(self, "scroll_y"):
            return 0  # it would go on to where the lines were
        begins_at = widget.region.y - self.children[0].region.y
        return round(self.scroll_y) - self._num_gone - begins_at

    def lose_above(self, num_lines: int) -> None:
        """So many of the lines that are unseen have gone."""
        self._num_gone += num_lines
        self.refresh(layout=True)  # what goes and what comes may be as high

    def hold_lines_below(self) -> None:
        """From now on, as many lines as now are below the first that is seen, whatever comes or goes."""
        self._lines_below = round(self.virtual_size.height - self.scroll_y)

    def release_lines_below(self) -> None:
        self._lines_below = None

    def arrange(self, size: Size, optimal: bool = False) -> DockArrangeResult:
        """Scrolls in the same frame in which lines come or go."""
        arranged = super().arrange(size, optimal)
        if not optimal:
            if self._lines_below is not None:
                self._put(arranged.total_region.bottom - self._lines_below)
            elif self._num_gone:
                self._put(round(self.scroll_y) - self._num_gone)
            self._num_gone = 0
        return arranged

    def _put(self, y: int) -> None:
        """Where the layout under way is to find it scrolled to."""
        y = max(y, 0)
        self.set_reactive(Widget.scroll_y, y)
        self.set_reactive(Widget.scroll_target_y, y)
        self.vertical_scrollbar.set_reactive(ScrollBar.position, y)
