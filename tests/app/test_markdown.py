"""Markdown in parts, and as lines."""

from __future__ import annotations

import pytest

from medusa_chat.app.markdown_lines import markdown_lines
from medusa_chat.app.parts import Part, Parts
from tests.scripted_worker import HOSTILE, MARKDOWN

CODE = "```python\n" + "".join(f"line({number})\n" for number in range(100)) + "```\n\nAfter it.\n"
TABLE = "| a | b |\n| - | - |\n" + "".join(f"| {number} | x |\n" for number in range(100))
ITEMS = "".join(f"{number}. item\n" for number in range(1, 100))
PARAGRAPHS = "One sentence.\n\n" * 100
ENDLESS_LINE = "word " * 5000


def _lines(source: str, width: int = 60) -> list[str]:
    return [line.plain.rstrip() for line in markdown_lines(Part(text=source), width)]


def _parts(text: str, step: int) -> list[Part]:
    parts = Parts()
    pieces = [text[start : start + step] for start in range(0, len(text), step)]
    return list(dict.fromkeys(part for piece in pieces for part in parts.grow([(piece, None)])))


@pytest.mark.parametrize("text", [CODE, TABLE, ITEMS, PARAGRAPHS, ENDLESS_LINE, MARKDOWN, "\n" * 500])
@pytest.mark.parametrize("step", [1, 7, 300, 10**6])
def test_parts_are_short_and_lose_nothing(text: str, step: int) -> None:
    parts = _parts(text, step)
    assert "".join(part.text for part in parts) == text
    assert all(part.text.count("\n") <= 42 and len(part.text) <= 6000 for part in parts)
    assert [part.goes_on for part in parts[:-1]] == [part.went_on for part in parts[1:]]


def test_parted_blocks_go_on_as_what_they_were() -> None:
    whole = _lines(CODE)
    parted = [line.plain.rstrip() for part in _parts(CODE, 7) for line in markdown_lines(part, 60)]
    assert [line for line in parted if line] == [line for line in whole if line]
    assert all(part.opening == "```python\n" for part in _parts(CODE, 7)[1:-1])
    assert all("│" in _lines(part.source)[-1] for part in _parts(TABLE, 7))
    assert _lines(_parts(ITEMS, 300)[-1].source)[-1].endswith("99. item")
    assert not any(part.went_on for part in _parts(PARAGRAPHS, 7))


def test_blocks() -> None:
    assert _lines(MARKDOWN) == [
        "Tree drafting",
        "",
        "Medusa heads guess the next tokens, and the base model",
        "verifies them in one pass:",
        "",
        "1. draft a tree,",
        "2. verify every node at once,",
        "3. keep the longest path it agrees with.",
        "",
        " " * 52 + "python",
        "  def accept(path, base):",
        "      return [token for token in path if base(token)]",
        "",
        "",
        "step │ tokens",
        "─────┼───────",
        "1    │ 3",
        "2    │ 2",
        "",
        "▌ Same words, fewer steps. See",
        "▌ https://arxiv.org/abs/2401.10774.",
    ]


def test_nesting_and_looseness() -> None:
    source = "9. a\n   - b\n     - c\n10. d\n\n- e\n\n- f\n\n  g\n> > h\n\n---\n"
    assert _lines(source, 12) == [
        *(" 9. a", "    • b", "      ▪ c", "10. d", "", "• e", "", "• f", "", "  g", ""),
        *("▌ ▌ h", "", "─" * 12),
    ]


def test_hostile_text_is_shown_and_does_nothing() -> None:
    text = "\n".join(_lines(HOSTILE))
    assert "[@click=app.quit]quit[/]" in text
    assert "<div>a block of HTML</div>" in text
    assert not set(text) & set("\x1b\x07\x9b\u202e")
    _lines("```no-such-language\nx\n```\n![alt](file:///etc/passwd)\n[x](javascript:alert(1))\n||\n|-|\n|||")


@pytest.mark.parametrize("width", [1, 2, 9, 20, 200])
def test_no_line_is_wider_than_there_is_room(width: int) -> None:
    wide = (
        "> " * 9 + "deep\n\n| 漢字 | " + "x" * 300 + " |\n|-|-|\n| a | b |\n\n```\n" + "漢" * 99 + "\n```\n"
    )
    for source in (MARKDOWN, wide):
        for line in markdown_lines(Part(text=source), width):
            assert line.cell_length <= max(width, 30)
