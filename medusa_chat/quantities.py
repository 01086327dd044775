"""Sizes and counts as people say them."""

from __future__ import annotations


def size(num_bytes: int | None) -> str:
    """Such as 812 B, 1.2 kB, 93 MB, 4.0 GB; a dash where it isn't known."""
    if num_bytes is None:
        return "–"
    if num_bytes < 1e3:
        return f"{num_bytes} B"
    if num_bytes >= 999.5e6:
        return f"{num_bytes / 1e9:.1f} GB"
    number, unit = (num_bytes / 1e6, "MB") if num_bytes >= 999.5e3 else (num_bytes / 1e3, "kB")
    return f"{number:.1f} {unit}" if number < 9.95 else f"{number:.0f} {unit}"


def count(number: int | None) -> str:
    """Of weights, in billions or millions; a dash where it isn't known."""
    if number is None:
        return "–"
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.0f} M"


def lines(number: int) -> str:
    """1 line, 2,000 lines."""
    return f"{number:,} line{'' if number == 1 else 's'}"
