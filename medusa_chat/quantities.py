"""Sizes and counts as people say them."""

from __future__ import annotations


def size(num_bytes: int | None) -> str:
    """In units of 10^9, 10^6 or 10^3 bytes; a dash where it isn't known."""
    if num_bytes is None:
        return "–"
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.1f} GB"
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.0f} kB"


def count(number: int | None) -> str:
    """Of weights, in billions or millions; a dash where it isn't known."""
    if number is None:
        return "–"
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.0f} M"
