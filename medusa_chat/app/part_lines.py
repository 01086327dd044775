"""The lines that a part of a reply takes on the screen, however it is seen."""

from __future__ import annotations

from typing import Literal

from textual.content import Content

from medusa_chat.app.origins import coloured
from medusa_chat.app.parts import Part

# rendered: Markdown. raw: as it was written. origins: that, coloured by whose guess each token was.
View = Literal["rendered", "raw", "origins"]
_OF_EACH_KIND = "# *a* `b`\n\n- c\n\n| d |\n| - |\n| e |\n\n```python\nf(1)\n```\n"


def warm_up() -> None:
    """Imports what the first reply would have to wait for: of the first block of code, most of 0.1 s. In a
    thread, when the screen stands.
    """
    part_lines(Part(text=_OF_EACH_KIND), "rendered", 80)


def part_lines(part: Part, view: View, width: int) -> list[Content]:
    """None is wider than width. The last is empty where a block ends with the part."""
    if view != "rendered":
        return _lines_as_written(part, width, is_coloured=view == "origins")
    from medusa_chat.app.markdown_lines import markdown_lines  # after the first picture

    lines = markdown_lines(part, width)
    return lines if part.goes_on else [*lines, Content("")]


def _lines_as_written(part: Part, width: int, *, is_coloured: bool) -> list[Content]:
    lines = (coloured(part.pieces) if is_coloured else Content(part.text)).wrap(width)
    if part.text.endswith("\n"):
        del lines[-1]  # it is the next part's first one
    return lines
