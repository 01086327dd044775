"""The Textual UI. Never imports torch: the engine is reached through engine/process.py only."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from functools import partial

from medusa_chat.app.app import MedusaApp
from medusa_chat.app.collecting import collect_when_quiet
from medusa_chat.app.lasting_writer import outlive_terminals
from medusa_chat.app.models.fetching import fetch_nothing, to_fetch
from medusa_chat.app.paste_parser import take_pastes_as_text
from medusa_chat.app.plain_letters import use_plain_letters
from medusa_chat.app.typed_letters import bear_all_keys
from medusa_chat.app.yielding import yield_to_engine
from medusa_chat.engine.process import WORKER_COMMAND, EngineProcess
from medusa_chat.history import History
from medusa_chat.records import LoadRequest
from medusa_chat.settings import Settings

__all__ = ["MedusaApp", "run_app"]


def run_app(
    settings: Settings,
    request: LoadRequest,
    resume: bool = False,
    engine_command: Sequence[str] | None = None,
) -> int:
    """Opens the chat and returns its exit status. resume: go on with the latest conversation.
    engine_command: of an engine that fetches no models, in place of the real one.
    """
    use_plain_letters(sys.__stderr__)  # which Textual draws on
    take_pastes_as_text()
    bear_all_keys()
    outlive_terminals()
    yield_to_engine()
    return asyncio.run(_run(settings, request, resume, engine_command))


async def _run(
    settings: Settings, request: LoadRequest, resume: bool, engine_command: Sequence[str] | None
) -> int:
    engine, history = EngineProcess(engine_command or WORKER_COMMAND), History()
    ask_about = to_fetch if engine_command is None else fetch_nothing
    app = MedusaApp(settings, request, engine, history, resume, ask_about)
    collecting = asyncio.create_task(
        collect_when_quiet(lambda: None if app.is_answering else app.prompt.text)
    )
    _leave_on_signals(app)
    try:
        await app.run_async()
    finally:
        collecting.cancel()
        await engine.close()
        history.close()
    return app.return_code or 0


def _leave_on_signals(app: MedusaApp) -> None:
    """A terminal that is closed, a polite kill and an interrupt from outside (here Ctrl+C is a key) end the
    chat as Ctrl+Q does, with all of it saved.
    """
    loop = asyncio.get_running_loop()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if (number := getattr(signal, name, None)) is not None:
            with contextlib.suppress(NotImplementedError):  # Windows
                loop.add_signal_handler(number, partial(app.exit, return_code=128 + number))
