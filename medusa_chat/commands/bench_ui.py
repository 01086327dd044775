"""`medusa-chat bench ui`: whether the chat keeps out of the way of who types and of what computes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from medusa_chat.commands.options import JsonOption
from medusa_chat.commands.progress import shown_progress
from medusa_chat.commands.table import as_table
from medusa_chat.errors import UsageError

_MOST_SECONDS_TO_START = 0.5
_MOST_MS_OF_A_KEY = 50
_LEAST_SHARE_KEPT = 0.97


def ui(as_json: JsonOption = False) -> None:
    """Measure the chat itself, on a scripted engine in a pseudo-terminal: about two minutes."""
    if os.name != "posix":
        raise UsageError("bench ui needs a pseudo-terminal, which this system doesn't have.")
    from medusa_chat.bench.ui import Extent, measure_ui, own_programs
    from medusa_chat.commands.scripted_chat import PROGRAM

    with shown_progress(always=False) as on_progress:
        report = measure_ui(own_programs(PROGRAM), Extent(), on_progress)
    print(json.dumps(report) if as_json else _as_text(report))


def _as_text(report: dict[str, Any]) -> str:
    rows = [
        (name, goal, measured, "met" if is_met else "missed")
        for name, goal, measured, is_met in _rows(report)
    ]
    engine = report["engine"]
    shares = ", ".join(f"{typing['cpu_share']:.0%}" for typing in report["typing"].values())
    return "\n".join(
        (
            f"{report['machine']}, Python {report['python']}, load before {report['load_before']:.1f}",
            "",
            as_table(("", "goal", "measured", ""), rows),
            "",
            f"the whole screen, footer included: {report['seconds_to']['whole_picture']:.2f} s",
            f"a reply streams at {report['tokens_per_second']} tokens/s; "
            f"the chat then takes {shares} of one core",
            f"the engine while the chat waits: {engine['alone_tokens_per_second']:.0f} tokens/s, "
            f"while it shows them: {engine['with_chat_tokens_per_second']:.0f}; "
            f"half of the turns kept {engine['lower_quartile']:.1%} to {engine['upper_quartile']:.1%}",
        )
    )


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, str, str, bool]]:
    start = report["seconds_to"]["first_picture"]
    goal = f"< {_MOST_SECONDS_TO_START} s"
    yield "until the first picture of the screen", goal, f"{start:.2f} s", start < _MOST_SECONDS_TO_START
    for name, typing in report["typing"].items():
        waits = f"{typing['p50_ms']:.0f} / {typing['p99_ms']:.0f} / {typing['worst_ms']:.0f} ms"
        is_met = typing["worst_ms"] <= _MOST_MS_OF_A_KEY
        yield f"a key in {name}, p50 / p99 / worst", f"≤ {_MOST_MS_OF_A_KEY} ms", waits, is_met
    kept = report["engine"]["share_kept"]
    yield (
        "the engine's speed that is kept",
        f"≥ {_LEAST_SHARE_KEPT:.0%}",
        f"{kept:.1%}",
        kept >= _LEAST_SHARE_KEPT,
    )
