"""What a terminal without Unicode shows in place of boxes and bars."""

from __future__ import annotations

import codecs
import io
from typing import TextIO

from rich.cells import cell_len

_HANDLER = "medusa-chat-plain-letters"
_PLAIN = str.maketrans(
    "─━╸═╭╮╰╯┼├┤┬┴│┃▌▎▏▐┆·•▪‣–—…×■●○▶▼▲▁▂▃▄▅▆▇█≤≥’‘“”", "----+++++++++||||||:.***--.x#*o>v^__..--=#<>''\"\""
)


def use_plain_letters(stream: TextIO | None) -> None:
    """Has the stream write letters of its own encoding, each as wide as what it stands for."""
    if isinstance(stream, io.TextIOWrapper):
        codecs.register_error(_HANDLER, _replace)
        stream.reconfigure(errors=_HANDLER)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(letter if letter.isascii() else "?" * cell_len(letter) for letter in letters), error.end
