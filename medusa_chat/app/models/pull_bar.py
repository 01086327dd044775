"""The download under way in one line above the prompt."""

from __future__ import annotations

from textual.widgets import Static

from medusa_chat.app.models.pulls import Pull, Pulls
from medusa_chat.app.models.wording import pull_line


class PullBar(Static):
    """A fixed line, there only while something is fetched."""

    def __init__(self, pulls: Pulls) -> None:
        super().__init__(markup=False)
        self._pulls = pulls
        self.display = False

    def on_mount(self) -> None:
        self._pulls.changed.subscribe(self, self._show)

    def _show(self, pull: Pull) -> None:
        self.display = pull.outcome == "running"
        if self.display:
            self.update(pull_line(pull), layout=False)
