"""`medusa-chat models`: what the registry knows, and what of it is here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from medusa_chat.commands.options import JsonOption

if TYPE_CHECKING:
    from medusa_chat.registry import ModelSpec


def models(as_json: JsonOption = False) -> None:
    """List the models known by name."""
    from medusa_chat.registry import load_registry

    rows = [_describe(spec) for spec in load_registry().values()]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        _print_table(rows)


def _describe(spec: ModelSpec) -> dict[str, Any]:
    """bytes: on disk when the model is here, else of the download."""
    from medusa_chat.checkpoints import is_local, local_bytes

    here = is_local(spec)
    download = spec.source.bytes if spec.source else None
    heads = spec.heads_folder
    return {
        "name": spec.name,
        "base": spec.base,
        "parameters": spec.parameters,
        "licence": spec.licence,
        "context": spec.context,
        "quantization": spec.quantization,
        "heads": spec.heads,
        "heads_here": heads is not None and heads.is_dir(),
        "here": here,
        "bytes": local_bytes(spec) if here else download,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    for column in ("Name", "Parameters", "Here", "Heads", "Size", "Quantisation"):
        table.add_column(column, overflow="fold", justify="right" if column in _NUMBERS else "left")
    for row in rows:
        table.add_row(
            Text(row["name"]),
            _parameters(row["parameters"]),
            "yes" if row["here"] else "no",
            _heads(row),
            _size(row),
            row["quantization"],
        )
    Console().print(table)


_NUMBERS = ("Parameters", "Size")


def _parameters(number: int | None) -> str:
    if number is None:
        return "?"
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.0f} M"


def _heads(row: dict[str, Any]) -> str:
    if row["heads"] is None:
        return "none"
    if not row["heads_here"]:
        return "missing"
    return "shipped" if row["heads"].startswith("package:") else "own"


def _size(row: dict[str, Any]) -> str:
    if row["bytes"] is None:
        return "?"
    where = "on disk" if row["here"] else "to download"
    return f"{row['bytes'] / 1e6:.0f} MB {where}"
