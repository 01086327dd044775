"""Markdown as lines of a given width, each a Content: headings, lists, quotes, code, tables.

Textual's own Markdown makes a widget or more of every block and cell. A reply of a few screens is then
hundreds, every one of which is laid out each time the reply grows; a list is even made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode
from textual.content import Content
from textual.highlight import highlight
from textual.style import Style

from medusa_chat.app.parts import Part
from medusa_chat.printable import printable

_BULLETS = "•▪‣"
_LEAST_WIDTH = 8  # of what is nested deeply in a narrow terminal
_HEADINGS = {"h1": "bold $primary", "h2": "bold underline"}
_INLINE = {"em": "italic", "strong": "bold", "s": "strike"}
_CODE_INLINE = "$text-warning on $warning 10%"
_CODE = "on $foreground 6%"
_FAINT = "$foreground 40%"


class _Parser(MarkdownIt):
    """HTML is shown as it is written. Entities may not smuggle controls in."""

    def __init__(self) -> None:
        super().__init__("gfm-like", {"html": False})

    def parse(self, src: str, env: Any = None) -> list[Token]:
        tokens = super().parse(src, env)
        _clean(tokens)
        return tokens


def _clean(tokens: Iterable[Token]) -> None:
    for token in tokens:
        token.content = printable(token.content)
        _clean(token.children or ())


_PARSER = _Parser()


def markdown_lines(part: Part, width: int) -> list[Content]:
    """The part's lines, none wider than width. Code that is parted has no edge where it is."""
    nodes = SyntaxTreeNode(_PARSER.parse(part.source)).children
    lines = _blocks(nodes, width)
    if part.went_on and nodes and nodes[0].type == "fence":
        del lines[:1]
    if part.goes_on and nodes and nodes[-1].type == "fence":
        del lines[-1:]
    return lines


def _blocks(nodes: Sequence[SyntaxTreeNode], width: int) -> list[Content]:
    lines: list[Content] = []
    for node in nodes:
        if lines and not node.hidden and not _is_in_tight_item(node):
            lines.append(Content(""))
        lines += _BLOCKS.get(node.type, _text)(node, max(width, _LEAST_WIDTH))
    return lines


def _is_in_tight_item(node: SyntaxTreeNode) -> bool:
    item = node.parent
    return item is not None and item.type == "list_item" and any(child.hidden for child in item.children)


def _text(node: SyntaxTreeNode, width: int) -> list[Content]:
    return _spans(node.children).wrap(width)


def _heading(node: SyntaxTreeNode, width: int) -> list[Content]:
    return _spans(node.children).stylize(_HEADINGS.get(node.tag, "bold")).wrap(width)


def _list(node: SyntaxTreeNode, width: int) -> list[Content]:
    lines: list[Content] = []
    marks = _marks(node)
    is_loose = not any(_is_in_tight_item(item.children[0]) for item in node.children if item.children)
    for item, mark in zip(node.children, marks, strict=True):
        if lines and is_loose:
            lines.append(Content(""))
        inner = _blocks(item.children, width - len(mark)) or [Content("")]
        lines += _beside(Content.styled(mark, "$text-primary"), Content(" " * len(mark)), inner)
    return lines


def _marks(node: SyntaxTreeNode) -> list[str]:
    if node.type == "ordered_list":
        start = int(node.attrs.get("start", 1))
        numbers = [f"{number}. " for number in range(start, start + len(node.children))]
        return [number.rjust(len(numbers[-1])) for number in numbers]
    depth, above = 0, node.parent
    while above is not None:
        depth, above = depth + (above.type == "bullet_list"), above.parent
    return [f"{_BULLETS[min(depth, len(_BULLETS) - 1)]} "] * len(node.children)


def _quote(node: SyntaxTreeNode, width: int) -> list[Content]:
    bar = Content.styled("▌ ", "$text-primary 50%")
    return _beside(bar, bar, _blocks(node.children, width - 2))


def _beside(first: Content, others: Content, lines: Sequence[Content]) -> list[Content]:
    return [(others if number else first) + line for number, line in enumerate(lines)]


def _code(node: SyntaxTreeNode, width: int) -> list[Content]:
    """On a ground of its own, with its language above. Long lines go on in the next."""
    language = node.info.split()[0] if node.info.split() else ""
    code = highlight(node.content.rstrip("\n").expandtabs(4), language=language or "text")
    room = max(width - 4, _LEAST_WIDTH)
    label = Content.styled(language[:room].rjust(room), _FAINT)
    inner = [label, *(part for line in code.split(allow_blank=True) for part in line.fold(room)), Content("")]
    return [_padded(line, room).pad(2, 2).stylize_before(_CODE) for line in inner]


def _padded(line: Content, width: int) -> Content:
    return line.pad_right(max(width - line.cell_length, 0))


def _rule(_: SyntaxTreeNode, width: int) -> list[Content]:
    return [Content.styled("─" * width, _FAINT)]


def _table(node: SyntaxTreeNode, width: int) -> list[Content]:
    rows = [
        [_spans(cell.children) for cell in row.children] for part in node.children for row in part.children
    ]
    rows[0] = [cell.stylize("bold $primary") for cell in rows[0]]
    widths = _column_widths(rows, width - 3 * (len(rows[0]) - 1))
    between = Content.styled(" │ ", _FAINT)
    rule = Content.styled("─┼─".join("─" * column for column in widths), _FAINT)
    lines: list[Content] = []
    for number, row in enumerate(rows):
        lines += [rule] if number == 1 else []
        cells = [cell.wrap(column) for cell, column in zip(row, widths, strict=True)]
        for line in range(max(map(len, cells))):
            parts = [
                _padded(cell[line] if line < len(cell) else Content(""), column)
                for cell, column in zip(cells, widths, strict=True)
            ]
            lines.append(between.join(parts))
    return [line.truncate(width) for line in lines]


def _column_widths(rows: Sequence[Sequence[Content]], room: int) -> list[int]:
    """As wide as the cells are, or where there is no room for that, the widest ones narrower."""
    widths = [max(max(cell.cell_length for cell in column), 1) for column in zip(*rows, strict=True)]
    while sum(widths) > room and max(widths) > 3:
        widest = widths.index(max(widths))
        others = sorted(set(widths))[-2] if len(set(widths)) > 1 else 3
        excess = sum(widths) - room
        widths[widest] = max(widths[widest] - excess, min(others, widths[widest] - 1), 3)
    return widths


def _spans(nodes: Iterable[SyntaxTreeNode]) -> Content:
    return Content("").join(map(_span, nodes))


def _span(node: SyntaxTreeNode) -> Content:
    match node.type:
        case "code_inline":
            return Content.styled(node.content, _CODE_INLINE)
        case "softbreak":
            return Content(" ")
        case "hardbreak":
            return Content("\n")
        case "link":
            return _link(_spans(node.children), str(node.attrs.get("href", "")))
        case "image":
            return _link(Content(f"🖼  ({node.content})"), str(node.attrs.get("src", "")))
        case _ if node.children:
            return _spans(node.children).stylize(_INLINE.get(node.type, ""))
    return Content(node.content)


def _link(content: Content, address: str) -> Content:
    return content.stylize("underline").stylize(Style.from_meta({"@click": f"link({address!r})"}))


_BLOCKS: dict[str, Callable[[SyntaxTreeNode, int], list[Content]]] = {
    "heading": _heading,
    "bullet_list": _list,
    "ordered_list": _list,
    "blockquote": _quote,
    "fence": _code,
    "code_block": _code,
    "table": _table,
    "hr": _rule,
}
