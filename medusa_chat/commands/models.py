"""`medusa-chat models`: what the registry knows, and what of it is here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from medusa_chat.commands.options import JsonOption
from medusa_chat.commands.table import as_table

if TYPE_CHECKING:
    from medusa_chat.registry import ModelSpec

_HEADINGS = ("Name", "Weights", "Here", "Download", "Heads", "Quant", "Memory")
_NOTES = (
    "\nMemory: of weights and heads, about; the context comes on top."
    "\n*: never downloaded by medusa-chat's authors; names and revisions are from public documents."
)


def models(as_json: JsonOption = False) -> None:
    """List the models known by name."""
    from medusa_chat.registry import load_registry

    rows = [_describe(spec) for spec in load_registry().values()]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        _print_table(rows)


def _describe(spec: ModelSpec) -> dict[str, Any]:
    from medusa_chat.checkpoints import heads_are_here, is_local, local_bytes
    from medusa_chat.registry import HubSource

    heads = spec.heads_place
    source = spec.source
    return {
        "name": spec.name,
        "base": spec.base,
        "parameters": spec.parameters,
        "licence": spec.licence,
        "context": spec.context,
        "quantization": spec.quantization,
        "heads": spec.heads,
        "heads_here": heads is not None and heads_are_here(heads),
        "here": is_local(spec),
        "bytes_on_disk": local_bytes(spec),
        "bytes_to_download": spec.download_bytes,
        "memory_bytes": spec.memory_bytes,
        "revision": source.revision if isinstance(source, HubSource) else None,
        "pinned": source.is_pinned if isinstance(source, HubSource) else None,
        "tried": spec.tried,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    print(as_table(_HEADINGS, [_cells(row) for row in rows]))
    print(_NOTES)


def _cells(row: dict[str, Any]) -> list[str]:
    untried = "*" if row["tried"] is False else ""
    return [
        row["name"],
        _parameters(row["parameters"]),
        _size(row["bytes_on_disk"]) if row["here"] else "no",
        _size(row["bytes_to_download"]) + untried,
        _heads(row),
        row["quantization"],
        _size(row["memory_bytes"]),
    ]


def _parameters(number: int | None) -> str:
    if number is None:
        return "?"
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.0f} M"


def _size(number: int | None) -> str:
    if number is None:
        return "-"
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def _heads(row: dict[str, Any]) -> str:
    if row["heads"] is None:
        return "none"
    if row["heads"].startswith("hub:"):
        return "here" if row["heads_here"] else "hub"
    if not row["heads_here"]:
        return "missing"
    return "shipped" if row["heads"].startswith("package:") else "own"
