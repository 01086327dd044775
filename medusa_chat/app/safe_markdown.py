"""Markdown of a model: nothing in it runs, hides or reaches the terminal as a control character."""

from __future__ import annotations

from urllib.parse import urlsplit

from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

from medusa_chat.app.parts import Part
from medusa_chat.app.stack import once_laid_out

_OPENED_SCHEMES = ("http", "https")


_OF_EACH_KIND = "# *a* `b`\n\n- c\n\n| d |\n| - |\n| e |\n\n```python\nf(1)\n```\n"


def warm_up() -> None:
    """Imports what the first reply would have to wait for: of the first block of code, most of 0.1 s. In a
    thread, when the screen stands.
    """
    from medusa_chat.app.markdown_lines import markdown_lines

    markdown_lines(Part(text=_OF_EACH_KIND), 80)


class SafeMarkdown(Widget):
    """One widget for a whole document. Links open only when they lead to the web, and only on a click."""

    virtual_size = once_laid_out()

    def __init__(self) -> None:
        super().__init__()
        self._part = Part()
        self._lines: list[Content] = []
        self._width = 0

    @property
    def source(self) -> str:
        """The Markdown that is shown."""
        return self._part.text

    def show(self, part: Part) -> None:
        """Shows this part as it is now. Lays out only where the number of lines changes."""
        before, width = len(self._lines), self._width
        self._part, self._width = part, 0
        self.set_class(part.goes_on, "-goes-on")
        self.refresh(layout=not width or len(self._lines_at(width)) != before)

    def _lines_at(self, width: int) -> list[Content]:
        from medusa_chat.app.markdown_lines import markdown_lines  # after the first picture

        if width != self._width:
            self._lines, self._width = markdown_lines(self._part, width), width
        return self._lines

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._lines_at(width)) if width else 0

    def render(self) -> Content:
        return Content("\n").join(self._lines_at(self.content_size.width or self._width or 1))

    def action_link(self, address: str) -> None:
        if urlsplit(address).scheme in _OPENED_SCHEMES:
            self.app.open_url(address)
