"""Python's garbage collector, kept from stopping the screen in mid-reply.

A full collection looks at every object of every widget, which in a long chat takes a fifth of a second, and
as many new ones come with a reply that streams, there would be two of them a second.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

_SECONDS_BETWEEN_LOOKS = 1.0
_NEVER = 1_000_000
_ROUNDS_THAT_PAY = 20  # middle collections since the last full one


async def collect_when_quiet(activity: Callable[[], object]) -> None:
    """Runs beside the app until cancelled, and does full collections only when nothing is going on.

    activity: what differs from one second to the next while something is; None while a reply streams.
    """
    await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)  # after the first picture
    gc.enable()
    gc.collect()
    gc.freeze()  # what is imported stays: there is no use in looking at it again
    youngest, middle, _ = gc.get_threshold()
    gc.set_threshold(youngest, middle, _NEVER)
    before = activity()
    while True:
        await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
        now = activity()
        if now is not None and now == before and gc.get_count()[2] >= _ROUNDS_THAT_PAY:
            gc.collect()
        before = now
