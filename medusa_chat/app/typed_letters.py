"""What is typed, or pasted, on a terminal that sends another encoding."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TextIO


def bear_all_letters(stream: TextIO | None) -> None:
    """Has the stream read marks in place of bytes that are no letters."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding=_encoding_of(stream), errors="replace")


def bear_all_keys() -> None:
    """For the app that is run next: Textual reads UTF-8, and a byte that is none would end the chat. The
    driver has no other place to name its decoder.
    """
    if os.name == "posix":
        from textual.drivers import linux_driver

        linux_driver.getincrementaldecoder = _lenient_decoder  # type: ignore[attr-defined, assignment]


def _lenient_decoder(_: str) -> Callable[[], codecs.IncrementalDecoder]:
    return partial(codecs.getincrementaldecoder(_encoding_of(sys.__stdin__)), errors="replace")


def _encoding_of(stream: TextIO | None) -> str:
    """The terminal's, by the locale. Where that is ASCII, letters beyond it come in UTF-8 if at all."""
    name = codecs.lookup(stream.encoding if stream else "utf-8").name
    return "utf-8" if name == "ascii" else name
