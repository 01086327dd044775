"""A program in a pseudo-terminal of its own, as in a user's: keys go in, what it draws comes out."""

from __future__ import annotations

import contextlib
import os
import re
import select
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

_ESCAPE_SEQUENCE = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|[PX^_\]].*?(\x1b\\|\x07)|[@-Z\\-_=>])", re.DOTALL)
_PIECE_BYTES = 2**16
_KEPT_BYTES = 2**20
_SECONDS_TO_END = 5.0
_CAPABLE = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}  # whatever this program's own can do


class TerminalError(Exception):
    """The program didn't draw what was waited for."""


class Terminal:
    """Starts the command at once. Only where the system has pseudo-terminals: Linux, macOS, BSD."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        columns: int = 120,
        rows: int = 40,
    ) -> None:
        import pty  # not on Windows

        self._ours, theirs = pty.openpty()
        self.resize(columns, rows)
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, **_CAPABLE, **(environment or {})},
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(theirs)
        self._drawn = b""
        self.is_open = True

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def resize(self, columns: int, rows: int) -> None:
        """Tells the program, as a terminal whose window changes."""
        import fcntl
        import termios

        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: str) -> float:
        """Sends keys and returns the time. A surrogate is the byte that it stands for in file names."""
        now = time.perf_counter()
        os.write(self._ours, keys.encode(errors="surrogateescape"))
        return now

    def wait_for(self, text: str, seconds: float) -> float:
        """The time when the text had been drawn since the last wait. Raises TerminalError."""
        return self.times_of((text,), seconds)[0]

    def times_of(self, texts: Sequence[str], seconds: float) -> list[float]:
        """As wait_for, of texts drawn one after the other, or at once."""
        times = []
        for text in texts:
            self._draw(text, seconds)
            times.append(time.perf_counter())
        self._drawn = b""
        return times

    def read_until(self, text: str, seconds: float) -> str:
        """What has been drawn since the last wait, up to the text or somewhat further."""
        self._draw(text, seconds)
        drawn = self.text.decode(errors="replace")
        self._drawn = b""
        return drawn

    def _draw(self, text: str, seconds: float) -> None:
        deadline = time.perf_counter() + seconds
        wanted = text.encode()
        while wanted not in self.text:
            if time.perf_counter() > deadline or not self._read(1.0):
                raise self._error(text)

    def wait_for_key(self, key: str, seconds: float) -> float:
        """As wait_for, for one character: fast, so that looking for it weighs nothing in what is timed."""
        wanted, tail = key.encode(), b""
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            self._drawn = tail
            if not self._read(1.0):
                break
            if wanted in self._drawn:
                now = time.perf_counter()
                self._drawn = b""
                return now
            tail = self._drawn[-len(wanted) :]
        raise self._error(key)

    def _error(self, text: str) -> TerminalError:
        has_ended = "has ended" if self.process.poll() is not None else "goes on"
        return TerminalError(
            f"{text!r} was not drawn; the program {has_ended}. The last that was: {self.text[-500:]!r}"
        )

    def watch(self, seconds: float) -> None:
        """Reads what is drawn for a while, as the program would wait for a terminal that doesn't."""
        deadline = time.perf_counter() + seconds
        while (left := deadline - time.perf_counter()) > 0 and self.is_open:
            self._read(left)

    def wait(self, seconds: float = _SECONDS_TO_END) -> int:
        """The exit status, once the program has ended. Raises TerminalError."""
        deadline = time.perf_counter() + seconds
        while self.process.poll() is None:
            if time.perf_counter() > deadline:
                raise TerminalError(f"The program didn't end. The last it drew: {self.text[-500:]!r}")
            self._read(0.05)
        return self.process.returncode

    def hang_up(self) -> None:
        """Closes the terminal, as a window that is closed."""
        if self.is_open:
            self.is_open = False
            os.close(self._ours)

    def kill(self) -> None:
        """Ends the program by force, and the terminal."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self.hang_up()

    @property
    def text(self) -> bytes:
        """What was drawn since the last wait, without escape sequences."""
        return _ESCAPE_SEQUENCE.sub(b"", self._drawn)

    def _read(self, seconds: float) -> bool:
        """Reads a piece, waiting up to so long for one; False when the program has closed its end."""
        if not self.is_open:
            time.sleep(seconds)
            return False
        if not select.select([self._ours], [], [], seconds)[0]:
            return True
        try:
            piece = os.read(self._ours, _PIECE_BYTES)
        except OSError:  # Linux says so when the other end has been closed
            piece = b""
        self._drawn = (self._drawn + piece)[-_KEPT_BYTES:]
        return bool(piece)


def _take_terminal() -> None:
    """Makes standard input the controlling terminal, whose end the program then hears of."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
