"""Bars drawn with block characters."""

from __future__ import annotations

from collections.abc import Sequence

_LEVELS = "▁▂▃▄▅▆▇█"


def horizontal_bar(fraction: float, width: int) -> str:
    """A thin bar filling fraction (0..1) of width cells, to half a cell; padded to width."""
    halves = round(min(max(fraction, 0.0), 1.0) * width * 2)
    return ("━" * (halves // 2) + "╸" * (halves % 2)).ljust(width)


def sparkline(values: Sequence[int], highest: int, width: int) -> str:
    """The last width values, one cell each, from 1 (lowest) to highest; padded to width."""
    top = max(highest - 1, 1)
    cells = [_LEVELS[round(min(max(value - 1, 0) / top, 1.0) * (len(_LEVELS) - 1))] for value in values]
    return "".join(cells[-width:]).ljust(width)
