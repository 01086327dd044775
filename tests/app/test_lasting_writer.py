"""Drawing on a terminal that is gone."""

from __future__ import annotations

import contextlib
import os

import pytest

from medusa_chat.app.lasting_writer import LastingWriter


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_what_is_drawn_on_a_closed_terminal_is_dropped() -> None:
    ours, theirs = os.openpty()
    terminal = open(theirs, "w", buffering=1)  # noqa: SIM115 - its end is an error, too
    os.close(ours)
    with pytest.raises(OSError, match="Input/output"):
        print("gone", file=terminal)
    writer = LastingWriter(terminal)
    writer.start()
    for _ in range(100):  # more than its queue holds
        writer.write("\x1b[2J\n")
    writer.stop()
    assert not writer.is_alive()
    with contextlib.suppress(OSError):
        terminal.close()
