"""How far loading the model has come, in one line above the prompt."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from medusa_chat.printable import printable
from medusa_chat.records import LoadProgress

_BAR_CELLS = 20


class LoadBar(Static):
    """A fixed line, so that progress never moves the chat."""

    def __init__(self) -> None:
        super().__init__(markup=False)

    def show(self, progress: LoadProgress) -> None:
        """The bar is left out while the fraction isn't known."""
        parts: list[str | tuple[str, str]] = []
        if progress.fraction is not None:
            fraction = min(max(progress.fraction, 0.0), 1.0)
            done = round(fraction * _BAR_CELLS)
            parts += [("━" * done, "$primary"), ("━" * (_BAR_CELLS - done), "$foreground 20%")]
            parts += [f" {fraction:4.0%}  "]
        self.update(Content.assemble(*parts, printable(progress.message)), layout=False)
