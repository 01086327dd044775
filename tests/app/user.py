"""Somebody at the terminal of an app that runs without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from textual.app import App
from textual.pilot import Pilot


def screen_of(app: App[Any]) -> str:
    """The characters on the screen, line by line."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


class User:
    """Sees the screen and presses keys.

    Pilot's own press and pause without a time wait for an idle CPU besides, which takes far longer, and
    while a reply streams a second each.
    """

    def __init__(self, pilot: Pilot[Any]) -> None:
        self.pilot = pilot

    def screen(self) -> str:
        return screen_of(self.pilot.app)

    async def until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        """Waits for the screen to come to it."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)
        await self.settle()

    async def settle(self) -> None:
        """Until a key has gone from the app to a widget and what came of it back again."""
        for _ in range(3):
            await self.pilot.pause(0)

    async def press(self, *keys: str) -> None:
        for key in keys:
            self.pilot.app.simulate_key(key)
            await self.settle()
