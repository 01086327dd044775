"""Sizes of texts and files, in words."""

from __future__ import annotations


def file_size(num_bytes: int) -> str:
    """Such as 812 B, 12.3 kB, 4.0 MB."""
    if num_bytes < 1_000:
        return f"{num_bytes} B"
    size = float(num_bytes)
    for unit in ("kB", "MB"):
        size /= 1_000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1_000:.1f} GB"


def lines(num_lines: int) -> str:
    return f"{num_lines:,} line{'' if num_lines == 1 else 's'}"
