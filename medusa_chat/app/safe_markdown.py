"""A part of a reply on the screen: nothing in it runs or hides, no control character reaches the terminal."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

from medusa_chat.app.origins import coloured
from medusa_chat.app.parts import Part
from medusa_chat.app.stack import once_laid_out

# rendered: Markdown. raw: as it was written. origins: that, coloured by whose guess each token was.
View = Literal["rendered", "raw", "origins"]
_OPENED_SCHEMES = ("http", "https")
_OF_EACH_KIND = "# *a* `b`\n\n- c\n\n| d |\n| - |\n| e |\n\n```python\nf(1)\n```\n"


def warm_up() -> None:
    """Imports what the first reply would have to wait for: of the first block of code, most of 0.1 s. In a
    thread, when the screen stands.
    """
    from medusa_chat.app.markdown_lines import markdown_lines

    markdown_lines(Part(text=_OF_EACH_KIND), 80)


class SafeMarkdown(Widget):
    """One widget for a whole part. Links open only when they lead to the web, and only on a click."""

    virtual_size = once_laid_out()

    def __init__(self, view: View = "rendered") -> None:
        super().__init__()
        self._part = Part()
        self._view = view
        self._lines: list[Content] = []
        self._width = 0

    @property
    def source(self) -> str:
        """The Markdown that is shown."""
        return self._part.text

    def show(self, part: Part) -> None:
        """Shows this part as it is now. Lays out only where the number of lines changes."""
        self._part = part
        self.set_class(part.goes_on, "-goes-on")
        self._draw_anew()

    def show_as(self, view: View) -> None:
        """Shows it otherwise."""
        self._view = view
        self._draw_anew()

    def _draw_anew(self) -> None:
        before, width = len(self._lines), self._width
        self._width = 0
        self.refresh(layout=not width or len(self._lines_at(width)) != before)

    def _lines_at(self, width: int) -> list[Content]:
        if width != self._width:
            self._lines, self._width = self._lines_of(width), width
        return self._lines

    def _lines_of(self, width: int) -> list[Content]:
        if self._view != "rendered":
            return _lines_as_written(self._part, width, is_coloured=self._view == "origins")
        from medusa_chat.app.markdown_lines import markdown_lines  # after the first picture

        return markdown_lines(self._part, width)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._lines_at(width)) if width else 0

    def render(self) -> Content:
        return Content("\n").join(self._lines_at(self.content_size.width or self._width or 1))

    def action_link(self, address: str) -> None:
        if urlsplit(address).scheme in _OPENED_SCHEMES:
            self.app.open_url(address)


def _lines_as_written(part: Part, width: int, *, is_coloured: bool) -> list[Content]:
    lines = (coloured(part.pieces) if is_coloured else Content(part.text)).wrap(width)
    if part.text.endswith("\n"):
        del lines[-1]  # it is the next part's first one
    return lines
