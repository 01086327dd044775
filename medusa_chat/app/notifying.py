"""A sign for who is looking elsewhere when a long reply ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from medusa_chat.printable import printable

_SECONDS_WORTH_A_SIGN = 10.0
_MOST_LETTERS = 80
_BELL = "\a"
_KNOW_777 = ("foot", "rxvt", "ghostty", "vte", "wezterm")  # the others that know any, know OSC 9


class Notifier:
    """write: puts characters on the terminal as they are. is_wanted: by the settings."""

    def __init__(self, write: Callable[[str], object], *, is_wanted: bool) -> None:
        self._write = write
        self._is_wanted = is_wanted
        self._began = 0.0

    def begin(self) -> None:
        """A message has been sent."""
        self._began = time.monotonic()

    def end(self, title: str, *, is_focused: bool) -> None:
        """Its reply has ended. title: of the conversation. is_focused: the user sees it anyway."""
        took_long = time.monotonic() - self._began >= _SECONDS_WORTH_A_SIGN
        if self._is_wanted and took_long and not is_focused:
            self._write(notification(title, os.environ))


def notification(title: str, environment: Mapping[str, str]) -> str:
    """A bell, and the sequence by which this terminal shows a notice on the desktop."""
    line = " ".join(printable(title).split()).replace(";", ",")[:_MOST_LETTERS]
    text = f"The answer is there: {line}" if line else "The answer is there."
    kind = " ".join(environment.get(name, "").lower() for name in ("TERM", "TERM_PROGRAM"))
    if "VTE_VERSION" in environment or any(name in kind for name in _KNOW_777):
        return f"{_BELL}\x1b]777;notify;medusa-chat;{text}\x1b\\"
    return f"{_BELL}\x1b]9;medusa-chat: {text}\x1b\\"
