"""Text that is safe to put on a terminal, whoever wrote it."""

from __future__ import annotations

_UNPRINTABLE = dict.fromkeys(
    (
        *(code for code in range(0x20) if chr(code) not in "\t\n"),
        *range(0x7F, 0xA0),
        # Bidi embeddings, overrides and isolates make a line read otherwise than it is.
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        # Lone surrogates can't be encoded.
        *range(0xD800, 0xE000),
    )
)


def printable(text: str) -> str:
    r"""The text without control and escape characters (\n and \t stay) and without bidi overrides."""
    return text.translate(_UNPRINTABLE)
