"""Plain tables for reports: names to the left, figures to the right."""

from __future__ import annotations

from collections.abc import Sequence


def as_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One line a row, columns as wide as they must be."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    return "\n".join(_line(row, widths) for row in (headings, *rows))


def figure(value: float | None, digits: int = 1) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.rjust(width) if column else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()
