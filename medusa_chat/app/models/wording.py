"""Models and downloads in words, for the list, its details and the line above the prompt."""

from __future__ import annotations

from pathlib import Path

from textual.content import Content

from medusa_chat.app import figures
from medusa_chat.app.bars import horizontal_bar
from medusa_chat.app.models.pulls import Pull
from medusa_chat.checkpoints.catalogue import WIDEST_FIRST, Entry
from medusa_chat.machine import Memory
from medusa_chat.printable import printable
from medusa_chat.quantities import count, size
from medusa_chat.records import Quantization

_BAR_CELLS = 16
_WIDTHS = (8, 9, 9, 8)  # of the columns after the name
_HEADINGS = ("Weights", "On disk", "Heads", "Fits")
_DIM = "$foreground 60%"
_WEIGHTS: dict[Quantization, str] = {"4bit": "4-bit", "8bit": "8-bit", "none": "whole"}
_MINUTE, _HOUR = 60, 3600


def held(quantization: Quantization) -> str:
    """How weights are held at a quantisation."""
    return _WEIGHTS[quantization]


def heading(width: int) -> Content:
    """Of the list's columns."""
    return Content.assemble((_columns("  Name", _HEADINGS, width), "bold $foreground 50%"))


def row(entry: Entry, memory: Memory | None, freed: int, width: int, *, in_use: bool) -> Content:
    """One model in one line."""
    on_disk = "no" if entry.plan is not None else size(entry.bytes_on_disk or None)
    cells = (count(entry.num_weights), on_disk, entry.heads, fits(entry, memory, freed))
    line = _columns(f"{'●' if in_use else ' '} {printable(entry.model)}", cells, width)
    return Content.assemble((line, "bold $primary" if in_use else ""))


def fits(entry: Entry, memory: Memory | None, freed: int) -> str:
    """The widest weights that fit."""
    fitting = entry.fitting(memory, freed) if memory is not None else None
    if fitting is None:
        return figures.UNKNOWN
    return held(fitting[0]) if fitting else "no"


def room(memory: Memory, freed: int) -> str:
    """What there is for a model."""
    free = min(memory.free + freed, memory.total)
    return f"{size(free)} of {size(memory.total)} free on {printable(memory.name)}"


def details(entry: Entry, memory: Memory | None, freed: int, quantization: Quantization) -> list[Content]:
    """A line for each thing to know of one model, what decides first."""
    spec = entry.spec
    context = f"{spec.context:,} tokens of context" if spec.context else "context not known yet"
    facts = (printable(spec.base), spec.licence or "licence not known here", context)
    lines = [
        Content.assemble((" · ".join(facts), "bold")),
        _fact("Load as", _verdict(entry, memory, freed, quantization)),
        _fact("Memory", _needs(entry, memory)),
        _fact("Place", _place(entry)),
        _fact("Heads", _heads(entry)),
    ]
    if entry.plan is not None and spec.tried is False:
        lines.append(_fact("Tried", "no: this download is known from public documents only"))
    return lines


def _place(entry: Entry) -> str:
    plan = entry.plan
    if plan is None:
        folder = f" in {short_path(entry.spec.folder)}" if entry.spec.folder else ""
        return printable(f"here, {size(entry.bytes_on_disk)}{folder}")
    how_much = f"{size(plan.num_bytes)} to fetch" if plan.num_bytes else "to fetch, how much says the hub"
    return f"{how_much} from {printable(plan.origins[0])}"


def _heads(entry: Entry) -> str:
    heads = printable((entry.spec.heads or "").removeprefix("hub:"))
    match entry.heads:
        case "none":
            return "none of its own: drafts are looked up in the conversation"
        case "shipped":
            return "shipped with medusa-chat"
        case "hub":
            return f"fetched too, from {heads.partition('@')[0]}"
        case "missing":
            return f"missing: there is no folder {heads}"
        case "here" | "own":
            return f"here, {heads}"


def _needs(entry: Entry, memory: Memory | None) -> str:
    if memory is None:
        return "this machine is being asked"
    sizes = {kind: entry.memory_bytes(kind, memory) for kind in WIDEST_FIRST}
    if None in sizes.values():
        return "not known until it is here"
    return " · ".join(f"{held(kind)} {size(needed)}" for kind, needed in sizes.items()) + f", {_room(entry)}"


def _room(entry: Entry) -> str:
    if not (entry.sizes and entry.sizes.kv_bytes):
        return "without its context"
    return f"with {entry.context:,} tokens" + (" in 8 bits" if entry.kv_cache == "8bit" else "")


def _verdict(entry: Entry, memory: Memory | None, freed: int, quantization: Quantization) -> str:
    fitting = entry.fitting(memory, freed) if memory is not None else None
    if fitting is None:
        return held(quantization)
    if memory is not None and quantization in fitting:
        tokens, own = entry.longest_context(quantization, memory, freed), entry.spec.context
        shorter = f" with {tokens:,} of its {own:,} tokens" if tokens and own and tokens < own else ""
        return f"{held(quantization)}: fits{shorter}"
    if fitting:
        return f"{held(quantization)}: too large, {held(fitting[0])} would fit"
    return f"{held(quantization)}: too large, as it is at any quantisation"


def pull_line(pull: Pull) -> Content:
    """A download in one line: how far, how fast, how long."""
    progress = pull.progress
    message = printable(progress.message)
    if progress.fraction is None:
        return Content(message)
    bar = horizontal_bar(progress.fraction, _BAR_CELLS).rstrip()
    parts = [f" {progress.fraction:4.0%}"]
    if progress.num_bytes is not None:
        done = round(progress.fraction * progress.num_bytes)
        parts.append(f"{size(done)} of {size(progress.num_bytes)}")
    if pull.rate:
        parts.append(f"{size(round(pull.rate))}/s")
    if pull.seconds_left is not None:
        parts.append(f"{duration(pull.seconds_left)} left")
    return Content.assemble(
        (bar, "$primary"),
        ("━" * (_BAR_CELLS - len(bar)), "$foreground 20%"),
        " · ".join(parts),
        f"  {message}",
    )


def outcome(pull: Pull) -> str:
    """How a download ended, in a sentence."""
    match pull.outcome:
        case "done":
            return f"{pull.model} is here now."
        case "cancelled":
            return f"The download of {pull.model} is cancelled. What is here of it stays for the next time."
        case _:
            return pull.error or ""


def duration(seconds: float) -> str:
    """To two figures or so."""
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"


def short_path(path: Path) -> str:
    """With ~ for the user's own folder."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except ValueError:
        return str(path)


def _fact(label: str, text: str) -> Content:
    return Content.assemble((label.ljust(9), _DIM), text)


def _columns(first: str, cells: tuple[str, ...], width: int) -> str:
    name_width = max(width - sum(_WIDTHS), 1)
    name = first if len(first) < name_width else first[: name_width - 2] + "…"
    return name.ljust(name_width) + "".join(
        cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=True)
    )
