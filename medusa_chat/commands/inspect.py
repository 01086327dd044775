"""`medusa-chat inspect TARGET`: what a checkpoint is, before anything of it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from medusa_chat.commands.completing import complete_model
from medusa_chat.commands.options import JsonOption
from medusa_chat.printable import printable

if TYPE_CHECKING:
    from medusa_chat.registry import ModelSpec

Report = dict[str, Any]


def inspect(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A model `models` lists, a folder, or a file of weights.",
            autocompletion=complete_model,
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Tell what a checkpoint or its heads are, from headers alone; nothing in a file is run."""
    report = examine(target)
    # What stands in a file is a stranger's: no control character of it reaches the terminal.
    print(json.dumps(report, indent=2) if as_json else printable(_as_text(report)))


def examine(target: str) -> Report:
    """`target`; `model`, what the registry knows; `base` and `heads`, what the files are, or None.

    Raises ModelNotFound, or CheckpointError naming what is damaged.
    """
    from medusa_chat.registry import load_registry, resolve

    registry, path = load_registry(), Path(target).expanduser()
    if target not in registry and path.exists():
        from medusa_chat.model.inspection import inspect_source

        report = {"target": target, "model": None, **inspect_source(path)}
    else:
        report = {"target": target, **_examine_model(resolve(target))}
    if report["heads"] is not None:
        fits = report["heads"]["fits"]
        fits["models"] = [name for name, spec in registry.items() if spec.base == fits["base"]]
    return report


def _examine_model(spec: ModelSpec) -> Report:
    from medusa_chat.checkpoints import ensure_heads, ensure_local, heads_are_here, is_local
    from medusa_chat.model.inspection import inspect_source

    here = is_local(spec)
    model = {
        "name": spec.name,
        "base": spec.base,
        "licence": spec.licence,
        "parameters": spec.parameters,
        "context": spec.context,
        "quantization": spec.quantization,
        "memory_bytes": _memory(spec),
        "source": None if spec.source is None else str(spec.source),
        "heads": spec.heads,
        "tried": spec.tried,
        "here": here,
    }
    found = (
        inspect_source(ensure_local(spec, lambda progress: None)) if here else {"base": None, "heads": None}
    )
    heads = spec.heads_place
    if heads is not None and heads_are_here(heads):
        found["heads"] = inspect_source(ensure_heads(heads, lambda progress: None))["heads"]
    return {"model": model, **found}


def _memory(spec: ModelSpec) -> dict[str, int] | None:
    """Of the base model's weights, about, before there is a file to tell."""
    from medusa_chat.footprint import weights_bytes
    from medusa_chat.records import Quantization

    if spec.parameters is None:
        return None
    return {quant: weights_bytes(spec.parameters, quant) for quant in get_args(Quantization)}


def _as_text(report: Report) -> str:
    sections = []
    if report["model"] is not None:
        sections.append(_section("model", report["model"]))
        if not report["model"]["here"]:
            sections[-1] += f"\n  fetch it             medusa-chat pull {report['model']['name']}"
    if report["base"] is not None:
        sections.append(_section("base", report["base"]))
    if report["heads"] is not None:
        sections.append(_section("heads", report["heads"]))
    elif report["base"] is not None:
        sections.append("heads: none")
    return "\n".join(sections)


def _section(title: str, entries: Report) -> str:
    lines = [f"{title}:"]
    for key, value in entries.items():
        if value not in (None, [], {}):
            lines += [
                f"  {_LABELS.get(key, key.replace('_', ' ')):<20} {words}" for words in _words(key, value)
            ]
    return "\n".join(lines)


_LABELS = {"memory_bytes": "memory", "format_of": "written by"}


def _words(key: str, value: Any) -> list[str]:
    """One line each."""
    match key, value:
        case "memory_bytes", dict():
            return [f"{_size(bytes_)} {_held(quantization)}" for quantization, bytes_ in value.items()]
        case "memory_bytes", _:
            return [f"{_size(value)} in 16 bits"]
        case "fits", _:
            return [_fits(value)]
        case "windows", _:
            return [f"{window:,} tokens in layers of type {kind}" for kind, window in value.items()]
        case "tensors", _:
            return [f"{name} {shape}" for name, shape in value.items()]
        case _, list():
            return [str(entry) for entry in value]
        case _, bool():
            return ["yes" if value else "no"]
        case _, int():
            return [f"{value:,}"]
        case _:
            return [str(value)]


def _fits(fits: Report) -> str:
    parts = [f"hidden size {fits['hidden_size']:,}"]
    if fits["vocabulary"] is not None:
        parts.append(f"vocabulary {fits['vocabulary']:,}")
    if fits["vocabulary_at_least"] is not None:
        parts.append(f"vocabulary of at least {fits['vocabulary_at_least']:,}")
    if fits["fingerprint"] is not None:
        parts.append(f"fingerprint {fits['fingerprint']}")
    known = f", here {' or '.join(fits['models'])}" if fits["models"] else ""
    return f"{fits['base'] or 'a base'} ({', '.join(parts)}){known}"


def _held(quantization: str) -> str:
    return quantization if quantization == "as stored" else f"at --quant {quantization}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
