"""Pastes that hold escape sequences, such as a log with colours."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module

from textual._xterm_parser import BRACKETED_PASTE_END, BRACKETED_PASTE_START, XTermParser
from textual.message import Message

_ESC = "\x1b"


class PasteParser(XTermParser):
    """Textual's looks for sequences within a paste too, and from one it doesn't know on it takes all that is
    pasted for keys: pasted text could send a message or leave the chat. Here a paste has no ESC by then.
    """

    _is_pasting = False
    _tail = ""  # the beginning of a mark that what was fed ended in: already handed on, unless in a paste

    def feed(self, data: str) -> Iterable[Message]:
        if not data:  # the end
            return super().feed(data)
        taken = self._take(data)
        return super().feed(taken) if taken else ()

    def _take(self, data: str) -> str:
        num_handed_on = 0 if self._is_pasting else len(self._tail)
        text, taken = self._tail + data, ""
        while True:
            mark = BRACKETED_PASTE_END if self._is_pasting else BRACKETED_PASTE_START
            piece, found, rest = text.partition(mark)
            if not found:
                break
            taken += self._plain(piece) + mark
            self._is_pasting, text = not self._is_pasting, rest
        self._tail = _beginning_at_end(mark, text)
        if self._is_pasting:
            text = text.removesuffix(self._tail)
        return (taken + self._plain(text))[num_handed_on:]

    def _plain(self, text: str) -> str:
        return text.replace(_ESC, "") if self._is_pasting else text


def _beginning_at_end(mark: str, text: str) -> str:
    return next(mark[:length] for length in reversed(range(len(mark))) if text.endswith(mark[:length]))


def take_pastes_as_text() -> None:
    """For the app that is run next. The driver has no other place to name its parser."""
    driver = import_module(f"textual.drivers.{'win32' if os.name == 'nt' else 'linux_driver'}")
    driver.XTermParser = PasteParser  # type: ignore[attr-defined]
