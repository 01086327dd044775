"""What the chat costs: how soon it is there, how long a key waits, and what it takes from the engine.

Measured on the real program in a pseudo-terminal, with an engine that is scripted. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from medusa_chat.bench import scripted_engine
from medusa_chat.bench.scripted_engine import BEGUN, FENCE_REACHED, SPEED_FILE, long_answer
from medusa_chat.bench.terminal import Terminal
from medusa_chat.history import History
from medusa_chat.records import LoadProgress

_FIRST_DRAWN = "Enter sends"  # the box, with the whole screen but the footer
_LAST_DRAWN = "Quit"  # the footer's last key
_QUIT = "\x11"  # Ctrl+Q
_FIRST_KEY = 0x100  # from there on letters that are in no reply, so that a key is known when it is drawn
_SECONDS_BETWEEN_KEYS = (0.08, 0.16)
_SECONDS_TO_SETTLE = 2.0
_SECONDS_TO_START = 30.0
_SECONDS_TO_REPLY = 60.0
_SECONDS_TO_WORK = 300.0
_LONG_MESSAGES = 500


@dataclasses.dataclass(frozen=True, slots=True)
class Programs:
    """Commands: the chat as it is, and the chat on the scripted engine."""

    chat: Sequence[str]
    scripted_chat: Sequence[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    starts: int = 5
    keys: int = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """Where keys are typed. drawn: what says that the reply has come so far."""

    name: str
    question: str
    drawn: str
    num_messages: int = 0


SETTINGS = (
    Setting("a fresh chat", "go", BEGUN),
    Setting(f"a conversation of {_LONG_MESSAGES} messages", "go", BEGUN, _LONG_MESSAGES),
    Setting(f"a code fence of {scripted_engine.FENCE_LINES:,} lines", "fence", FENCE_REACHED),
)


def measure_ui(
    programs: Programs, extent: Extent, on_progress: Callable[[LoadProgress], None]
) -> dict[str, Any]:
    """The report that `bench ui --json` prints. Raises TerminalError where a program doesn't play along."""
    load_before = os.getloadavg()[0]
    on_progress(LoadProgress("Starting the chat"))
    report: dict[str, Any] = {"seconds_to": measure_starts(programs.chat, extent.starts), "typing": {}}
    for setting in SETTINGS:
        on_progress(LoadProgress(f"Typing in {setting.name}"))
        report["typing"][setting.name] = measure_typing(programs.scripted_chat, setting, extent.keys)
    on_progress(LoadProgress("The engine with the chat and without"))
    report["engine"] = measure_engine(programs.scripted_chat)
    return report | {
        "tokens_per_second": scripted_engine.TOKENS_PER_SECOND,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "load_before": load_before,
    }


def measure_starts(command: Sequence[str], number: int) -> dict[str, float]:
    """Median seconds from the start of the process until the first picture, and until all of it is drawn."""
    first, whole = [], []
    with _home() as environment:
        for _ in range(number):
            with Terminal(command, environment) as terminal:
                times = terminal.times_of((_FIRST_DRAWN, _LAST_DRAWN), _SECONDS_TO_START)
                first.append(times[0] - terminal.started)
                whole.append(times[1] - terminal.started)
                terminal.press(_QUIT)  # the engine has hardly begun: nothing is fetched or loaded
                terminal.wait()
    return {"first_picture": statistics.median(first), "whole_picture": statistics.median(whole)}


def measure_typing(command: Sequence[str], setting: Setting, num_keys: int) -> dict[str, float]:
    """Milliseconds from a key until it is drawn, while a reply streams; and the chat's share of one core."""
    with _home(setting.num_messages) as environment:
        options = ["--continue"] if setting.num_messages else []
        with Terminal([*command, *options], environment) as terminal:
            _ask(terminal, setting.question)
            terminal.wait_for(setting.drawn, _SECONDS_TO_REPLY)
            terminal.watch(_SECONDS_TO_SETTLE)
            share = _cpu_share(terminal.process.pid)
            waits = sorted(_wait_of_key(terminal, chr(_FIRST_KEY + number)) for number in range(num_keys))
            return {
                "p50_ms": statistics.median(waits),
                "p99_ms": waits[round(0.99 * (num_keys - 1))],
                "worst_ms": waits[-1],
                "cpu_share": share(),
            }


def _ask(terminal: Terminal, question: str) -> None:
    terminal.wait_for(_LAST_DRAWN, _SECONDS_TO_START)
    terminal.watch(1.0)  # the conversation of before, and the engine
    terminal.press(question)
    terminal.watch(0.2)
    terminal.press("\r")


def _wait_of_key(terminal: Terminal, key: str) -> float:
    terminal.watch(random.uniform(*_SECONDS_BETWEEN_KEYS))
    pressed = terminal.press(key)
    return 1000 * (terminal.wait_for_key(key, _SECONDS_TO_START) - pressed)


def _cpu_share(pid: int) -> Callable[[], float]:
    """A function that gives the process's share of one core since now."""
    process = psutil.Process(pid)

    def seconds() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    before, started = seconds(), time.perf_counter()
    return lambda: (seconds() - before) / (time.perf_counter() - started)


def measure_engine(command: Sequence[str]) -> dict[str, float]:
    """Tokens a second of one engine that computes all the time, in turn to itself and said to the chat, which
    shows them. The share that is kept is the median of neighbouring turns'.
    """
    with _home() as environment, Terminal(command, environment) as terminal:
        _ask(terminal, "work")
        file = Path(environment[SPEED_FILE])
        deadline = time.perf_counter() + _SECONDS_TO_WORK
        while not file.exists() and time.perf_counter() < deadline:
            terminal.watch(0.1)
        terminal.watch(0.1)
        rounds = json.loads(file.read_text(encoding="utf-8"))
    lower, median, upper = statistics.quantiles((turn["said"] / turn["kept"] for turn in rounds), n=4)
    return {
        "alone_tokens_per_second": statistics.median(turn["kept"] for turn in rounds),
        "with_chat_tokens_per_second": statistics.median(turn["said"] for turn in rounds),
        "share_kept": median,
        "lower_quartile": lower,
        "upper_quartile": upper,
    }


@contextmanager
def _home(num_messages: int = 0) -> Iterator[dict[str, str]]:
    """The environment of a program that finds no settings, and conversations only if it is to."""
    with tempfile.TemporaryDirectory(prefix="medusa-chat-bench-", ignore_cleanup_errors=True) as folder:
        if num_messages:
            _fill_history(Path(folder) / "data" / "history.db", num_messages)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MEDUSA_CHAT_")}
        yield kept | {"MEDUSA_CHAT_HOME": folder, SPEED_FILE: str(Path(folder) / "speed")}


def _fill_history(path: Path, num_messages: int) -> None:
    history = History(path)
    conversation = history.create("scripted")
    for number in range(num_messages // 2):
        history.add(conversation, "user", f"Question {number}?")
        history.add(conversation, "assistant", long_answer(number))
    history.close()


def own_programs(scripted_chat: Sequence[str]) -> Programs:
    """Those of this Python. scripted_chat: its command, which this room may not know."""
    python = (sys.executable, "-P", "-m")
    return Programs((*python, "medusa_chat.cli"), scripted_chat)
