"""What a terminal that can't draw shows in place of boxes, bars and arrows."""

from __future__ import annotations

import codecs
import io
import os
import re
from functools import partial
from typing import TextIO

from rich.cells import cell_len

_OWN, _PLAIN_DRAWINGS = "medusa-chat-own-letters", "medusa-chat-plain-drawings"
_STAND_INS = {
    "-": "─━╸═╍▔▀–—",
    "+": "╭╮╰╯┼├┤┬┴┌┐└┘┏┓┗┛╔╗╚╝▛▜▙▟",
    "|": "│┃║▌▎▏▐▕▊",
    ":": "┆╏",
    "*": "•▪★",
    "o": "○",
    "#": "■●█",
    ".": "·…",
    "x": "×",
    "<": "‹←◂≤",
    ">": "›→❯▸▶‣↳≥",
    "^": "↑▲",
    "v": "↓▼",
    "_": "▁▂▃",
    "=": "▄▅▆▇",
    "!": "🖼",
    "> ": "🔎",  # twice as wide
    "'": "’‘",
    '"': "“”",
}
_PLAIN = str.maketrans({drawn: plain for plain, all_drawn in _STAND_INS.items() for drawn in all_drawn})
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_VIDEO_TERMINAL = re.compile(r"linux|vt\d+")  # the console's font, and terminals older than Unicode


def use_plain_letters(stream: TextIO | None) -> None:
    """Has the stream write letters of its own encoding, each as wide as what it stands for. Where Unicode can
    be written but its boxes may not be seen, letters of all languages stay and boxes don't.
    """
    if not isinstance(stream, io.TextIOWrapper):
        return
    codecs.register_error(_OWN, _in_ascii)
    if _may_lack_boxes():
        codecs.register_error(_PLAIN_DRAWINGS, partial(_in_plain_drawings, stream.encoding))
        stream.reconfigure(encoding="ascii", errors=_PLAIN_DRAWINGS)
    else:
        stream.reconfigure(errors=_OWN)


def _may_lack_boxes() -> bool:
    """By its name; or the user says so: in the locale C Python writes UTF-8 all the same."""
    is_named = _VIDEO_TERMINAL.match(os.environ.get("TERM", "")) is not None
    return is_named or os.environ.get("LC_ALL") in ("C", "POSIX")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    letters, end = _plain(error)
    return _NOT_ASCII.sub(lambda run: "?" * cell_len(run[0]), letters), end


def _in_plain_drawings(encoding: str, error: UnicodeError) -> tuple[bytes, int]:
    letters, end = _plain(error)
    return letters.encode(encoding, _OWN), end


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What couldn't be written with its drawings in ASCII, and where that ends."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return error.object[error.start : error.end].translate(_PLAIN), error.end
