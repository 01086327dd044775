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
    from medusa_chat.checkpoints import is_local, local_bytes

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
        "here": is_local(spec),
        "bytes_on_disk": local_bytes(spec),
        "bytes_to_download": spec.source.bytes if spec.source else None,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    for column in ("Name", "Parameters", "Here", "Download", "Heads", "Quantisation"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(
            Text(row["name"]),
            _parameters(row["parameters"]),
            _megabytes(row["bytes_on_disk"]) if row["here"] else "no",
            _megabytes(row["bytes_to_download"]),
            _heads(row),
            row["quantization"],
        )
    Console().print(table)


def _parameters(number: int | None) -> str:
    if number is None:
        return "?"
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.0f} M"


def _megabytes(number: int | None) -> str:
    return "-" if number is None else f"{number / 1e6:.0f} MB"


def _heads(row: dict[str, Any]) -> str:
    if row["heads"] is None:
        return "none"
    if not row["heads_here"]:
        return "missing"
    return "shipped" if row["heads"].startswith("package:") else "own"
