"""Draws the README's pictures anew, with the default model on this machine: python docs/screenshots.py.

Their figures are true only while nothing else runs there.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot

from medusa_chat.app import MedusaApp
from medusa_chat.commands.starting import prepare_app
from medusa_chat.engine.process import WORKER_COMMAND, EngineProcess
from medusa_chat.history import History
from medusa_chat.paths import checkpoints_dir
from medusa_chat.records import SamplingOptions
from medusa_chat.settings import Settings

_DOCS = Path(__file__).parent
_QUESTIONS = (
    "Hello! What can you do?",
    "Write a Python function that returns the first n Fibonacci numbers, and explain it in one sentence.",
)
_EARLIER = ("Tides and the moon", "Rename files by date", "A haiku about rain", "Plan a week in Lisbon")
_SECONDS = 120


async def draw() -> None:
    settings = Settings(sampling=SamplingOptions(temperature=0.0, tree_size=8), theme="textual-dark")
    engine, history = EngineProcess(WORKER_COMMAND), History()
    for title in _EARLIER:
        history.rename(history.create(settings.model), title)
    app = MedusaApp(settings, settings.load_request(None), engine, history)
    async with app.run_test(size=(120, 38)) as pilot:
        await _until(pilot, lambda: app.is_ready)
        for question in _QUESTIONS:
            app.prompt.insert(question)
            await pilot.press("enter")
            await _until(pilot, lambda: app.is_answering)
            await _until(pilot, lambda: not app.is_answering)
        await _save(pilot, "chat-dark")
        await pilot.press("f10")
        await _save(pilot, "origins")
        await pilot.press("f10", "f12")
        await _until(pilot, lambda: "as fast" in app.export_screenshot().replace("&#160;", " "))
        await _save(pilot, "race")
        await pilot.press("escape", "ctrl+t")
        await pilot.resize_terminal(160, 38)
        await pilot.press("ctrl+o")
        await _save(pilot, "chat-light")
    await engine.close()
    history.close()


async def _until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_SECONDS):
        while not condition():
            await pilot.pause(0.1)


async def _save(pilot: Pilot[None], name: str) -> None:
    await pilot.pause(1.0)  # for titles and lists that come a moment later
    picture = pilot.app.export_screenshot(title="medusa-chat")
    (_DOCS / f"{name}.svg").write_text(picture, encoding="utf-8")


def main() -> None:
    """In a home of its own, but with the checkpoints that are here."""
    prepare_app()
    checkpoints = checkpoints_dir()
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEDUSA_CHAT_HOME"] = home
        checkpoints_dir().parent.mkdir(parents=True, exist_ok=True)
        checkpoints_dir().symlink_to(checkpoints, target_is_directory=True)
        asyncio.run(draw())


if __name__ == "__main__":
    main()
