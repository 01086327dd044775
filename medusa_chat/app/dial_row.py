"""One option in a line of its own: whether it has the keys, whether it differs, its value, a slider."""

from __future__ import annotations

from textual import events
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from medusa_chat.app.bars import horizontal_bar
from medusa_chat.app.dial import Dial, Setup

_LABEL_CELLS = 12
_LEFT = 3 + _LABEL_CELLS  # where the arrow to the left stands
_VALUE_CELLS = 25
_LEAST_TRACK_CELLS = 8


class DialRow(Static):
    """Clicks on the arrows step, on the slider set, on the value ask for an exact one.

    It is as high as a line and never lays out: options may change while a reply streams.
    """

    can_focus = True

    class Stepped(Message):
        """A click on an arrow: -1 or 1."""

        def __init__(self, notches: int) -> None:
            super().__init__()
            self.notches = notches

    class Slid(Message):
        """A click on the slider, so far along it, 0 to 1."""

        def __init__(self, share: float) -> None:
            super().__init__()
            self.share = share

    class Asked(Message):
        """A click on the value."""

    def __init__(self, dial: Dial) -> None:
        super().__init__(markup=False)
        self.dial = dial
        self._shown: tuple[Setup, Setup, bool] | None = None

    def show(self, setup: Setup, defaults: Setup, *, is_current: bool) -> None:
        """is_current: the keys are for this one."""
        self._shown = setup, defaults, is_current
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        if self._shown is None or not self.size.width:
            return
        setup, defaults, is_current = self._shown
        value = self.dial.shown(setup)
        differs = value != self.dial.shown(defaults)
        strong = "bold" if is_current else ""
        caution = self.dial.caution(setup)
        share = self.dial.scale.share(self.dial.value(setup)) if self._track_cells else None
        track = horizontal_bar(share, self._track_cells).replace(" ", "─") if share is not None else ""
        self.update(
            Content.assemble(
                ("❯" if is_current else " ", "bold $primary"),
                ("•" if differs else " ", "bold $accent"),
                (f" {self.dial.label.ljust(_LABEL_CELLS)}", strong),
                ("◂ ", "$foreground 50%"),
                (_fit(value + caution, self._value_cells), f"{strong} $warning" if caution else strong),
                (" ▸  ", "$foreground 50%"),
                (track, "$primary"),
            ),
            layout=False,
        )

    @property
    def _value_cells(self) -> int:
        return max(min(_VALUE_CELLS, self.size.width - _LEFT - 4), 1)

    @property
    def _track_cells(self) -> int:
        """0 where it is narrow."""
        room = self.size.width - self._track_left
        return room if room >= _LEAST_TRACK_CELLS else 0

    @property
    def _track_left(self) -> int:
        return _LEFT + self._value_cells + 6

    def on_click(self, event: events.Click) -> None:
        right = self._track_left - 4
        if event.x < _LEFT:
            return
        if event.x <= _LEFT + 1:
            self.post_message(self.Stepped(-1))
        elif event.x < right:
            self.post_message(self.Asked())
        elif event.x < self._track_left:
            self.post_message(self.Stepped(1))
        else:
            share = (event.x - self._track_left) / max(self._track_cells - 1, 1)
            self.post_message(self.Slid(min(share, 1.0)))


def _fit(text: str, cells: int) -> str:
    line = " ".join(text.split())
    return line.ljust(cells) if len(line) <= cells else f"{line[: cells - 1]}…"
