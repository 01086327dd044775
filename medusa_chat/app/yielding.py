"""The chat gives way to the engine, whose words wake it: that must not displace the engine."""

from __future__ import annotations

import contextlib
import os


def yield_to_engine() -> None:
    """Where the system can: the thread that draws waits for a free processor, for some milliseconds at most,
    rather than take the one that the engine's words came from. Threads and processes it starts don't.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # forbidden, in some containers
            os.sched_setscheduler(0, os.SCHED_BATCH | os.SCHED_RESET_ON_FORK, os.sched_param(0))
