"""`medusa-chat models`: what the registry knows, and what of it is here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medusa_chat.commands.options import JsonOption
from medusa_chat.commands.table import as_table
from medusa_chat.printable import printable
from medusa_chat.quantities import count, size

if TYPE_CHECKING:
    from medusa_chat.checkpoints.catalogue import Entry
    from medusa_chat.machine import Memory
    from medusa_chat.records import Quantization

_HEADINGS = ("Name", "Weights", "Here", "Download", "Heads", "Quant", "Memory", "Fits")
_UNTRIED = "*: never downloaded by medusa-chat's authors; names and revisions are from public documents."


PruneOption = Annotated[
    bool, typer.Option("--prune", help="Remove the copies of models kept in 4 and 8 bits.")
]


def models(as_json: JsonOption = False, prune: PruneOption = False) -> None:
    """List the models known by name."""
    if prune:
        _prune(as_json)
        return
    from medusa_chat.checkpoints.catalogue import read_catalogue
    from medusa_chat.machine import find_memory
    from medusa_chat.settings import load_settings

    settings = load_settings()
    memory = find_memory(settings.device, settings.dtype)
    rows = [_describe(entry, memory) for entry in read_catalogue(settings.kv_cache)]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print(as_table(_HEADINGS, [_cells(row) for row in rows]))
        print(f"\n{_what_fits(memory)}\n{_UNTRIED}")


def _prune(as_json: bool) -> None:
    from medusa_chat.checkpoints import quantised

    copies = [
        {
            "model": copy.about.get("model"),
            "quantization": copy.about.get("quantization"),
            "dtype": copy.about.get("dtype"),
            "bytes": copy.num_bytes,
        }
        for copy in quantised.read_copies()
    ]
    freed = quantised.prune()
    if as_json:
        print(json.dumps({"removed": copies, "bytes_freed": freed}, indent=2))
        return
    for copy in copies:
        print(printable(f"{copy['model']} {copy['quantization']} {copy['dtype']}: {size(copy['bytes'])}"))
    print(f"{size(freed)} freed." if freed else "No quantised copies were kept.")


def _describe(entry: Entry, memory: Memory) -> dict[str, Any]:
    from medusa_chat.checkpoints.catalogue import WIDEST_FIRST
    from medusa_chat.registry import HubSource

    spec, source = entry.spec, entry.spec.source
    return {
        "name": spec.name,
        "base": spec.base,
        "parameters": spec.parameters,
        "licence": spec.licence,
        "context": spec.context,
        "quantization": spec.quantization,
        "heads": spec.heads,
        "heads_state": entry.heads,
        "heads_here": entry.heads in ("shipped", "own", "here"),
        "here": entry.bytes_on_disk > 0,
        "bytes_on_disk": entry.bytes_on_disk,
        "bytes_to_download": spec.download_bytes,
        "memory_bytes": spec.memory_bytes,
        "memory_bytes_in_use": {kind: entry.memory_bytes(kind, memory) for kind in WIDEST_FIRST},
        "fits": entry.fitting(memory),
        "revision": source.revision if isinstance(source, HubSource) else None,
        "pinned": source.is_pinned if isinstance(source, HubSource) else None,
        "tried": spec.tried,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    untried = "*" if row["tried"] is False else ""
    return [
        row["name"],
        count(row["parameters"]),
        size(row["bytes_on_disk"]) if row["here"] else "no",
        size(row["bytes_to_download"]) + untried,
        row["heads_state"],
        row["quantization"],
        size(row["memory_bytes"]),
        _fits(row["fits"]),
    ]


def _fits(fitting: tuple[Quantization, ...] | None) -> str:
    """The widest quantisation that fits."""
    if fitting is None:
        return "–"
    return fitting[0] if fitting else "no"


def _what_fits(memory: Memory) -> str:
    from medusa_chat.memory_plan import LEAST_COMFORT

    return (
        "Memory: of weights and heads, about; the context comes on top.\n"
        f"Fits: the widest --quant that fits the {size(memory.free)} free of {size(memory.total)} on "
        f"{printable(memory.name)}, with heads and {LEAST_COMFORT:,} tokens of context or more."
    )
