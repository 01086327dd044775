"""The last line: the keys that do something now."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from textual.binding import Binding
from textual.content import Content
from textual.events import Click
from textual.screen import Screen
from textual.style import Style
from textual.widget import Widget

_KEY = "key"  # of what a cell's style says of it: which one a click there is


class KeyLine(Widget):
    """One widget. Textual's own footer makes one of every key, anew with every change of the focus, and is
    drawn a tenth of a second after the rest of the screen.
    """

    DEFAULT_CSS = "KeyLine { dock: bottom; height: 1; text-wrap: nowrap; }"
    ALLOW_SELECT = False

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._follow)

    def _follow(self, _: Screen[object]) -> None:
        self.refresh()

    def on_click(self, event: Click) -> None:
        if key := event.style.meta.get(_KEY):
            self.app.simulate_key(key)

    def render(self) -> Content:
        return Content("").join(map(self._words, _shown(self.screen)))

    def _words(self, bindings: list[Binding]) -> Content:
        """Keys of one group stand together before what they do. A click does what the first one does."""
        keys = "".join(self.app.get_key_display(binding) for binding in bindings)
        group = bindings[0].group
        name = group.description if group is not None and len(bindings) > 1 else bindings[0].description
        words = Content.assemble((f" {keys} ", "bold $primary"), (f"{name} ", "$foreground 60%"))
        return words.stylize(Style.from_meta({_KEY: bindings[0].key}))


def _shown(screen: Screen[object]) -> Iterator[list[Binding]]:
    """The bindings that are to be seen, one for each action, those of a group together."""
    by_action: dict[str, Binding] = {}
    for active in screen.active_bindings.values():
        if active.binding.show:
            by_action.setdefault(active.binding.action, active.binding)
    for group, of_group in groupby(by_action.values(), key=lambda binding: binding.group):
        if group is None:
            yield from ([binding] for binding in of_group)
        else:
            yield list(of_group)
