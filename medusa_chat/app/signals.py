"""What ends the chat in lines, or the answer it is reading out, from outside."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import NoReturn


def leave_on_signals() -> None:
    """While one types: the end of the terminal, or of the program, leaves."""
    for number in _signals_to_leave():
        signal.signal(number, _leave)


def _leave(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


@contextlib.contextmanager
def signals_in_a_reply(stop: Callable[[], None], leave: Callable[[int], None]) -> Iterator[None]:
    """While a reply streams, Ctrl+C stops it; the end of the terminal or of the program leaves, saved."""
    loop = asyncio.get_running_loop()
    acts: dict[int, Callable[[], None]] = {signal.SIGINT: stop}
    acts |= {number: partial(leave, number) for number in _signals_to_leave()}
    before = {number: signal.getsignal(number) for number in acts}
    with contextlib.suppress(NotImplementedError):  # Windows
        for number, act in acts.items():
            loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        for number, handler in before.items():
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _signals_to_leave() -> list[int]:
    return [
        getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
    ]  # not on Windows
