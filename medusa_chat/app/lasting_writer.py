"""A terminal that is closed while the chat draws on it."""

from __future__ import annotations

import contextlib
import os
from typing import IO

from textual.drivers._writer_thread import WriterThread


class LastingWriter(WriterThread):
    """Textual's ends at the first error, and once its queue is full whoever draws waits for it: a chat whose
    terminal was closed, which resumes it as well, stayed behind. Here what can't be drawn is dropped.
    """

    def __init__(self, file: IO[str]) -> None:
        super().__init__(_Dropping(file))  # type: ignore[arg-type]


class _Dropping:
    """As much of a file as the writer needs."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()


def outlive_terminals() -> None:
    """For the app that is run next. The driver has no other place to name its writer."""
    if os.name == "posix":
        from textual.drivers import linux_driver

        linux_driver.WriterThread = LastingWriter  # type: ignore[attr-defined]
