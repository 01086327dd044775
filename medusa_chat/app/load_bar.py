"""How far loading the model has come, in one line above the prompt."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from medusa_chat.app.bars import horizontal_bar
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
            bar = horizontal_bar(progress.fraction, _BAR_CELLS).rstrip()
            parts += [(bar, "$primary"), ("━" * (_BAR_CELLS - len(bar)), "$foreground 20%")]
            parts += [f" {min(max(progress.fraction, 0.0), 1.0):4.0%}  "]
        self.update(Content.assemble(*parts, printable(progress.message)), layout=False)
