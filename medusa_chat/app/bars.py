"""Bars drawn with block characters."""

from __future__ import annotations

from collections.abc import Sequence

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"


def horizontal_bar(fraction: float, width: int) -> str:
    """A bar filling fraction (0..1) of width cells, to an eighth of a cell; padded to width."""
    eighths = round(min(max(fraction, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def sparkline(values: Sequence[int], highest: int, width: int) -> str:
    """The last width values, one cell each, from 1 (lowest) to highest; padded to width."""
    top = max(highest - 1, 1)
    cells = [_LEVELS[round(min(max(value - 1, 0) / top, 1.0) * (len(_LEVELS) - 1))] for value in values]
    return "".join(cells[-width:]).ljust(width)
