"""`medusa-chat bench`: what drafting gains on this machine, prompt by prompt in one run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from medusa_chat.commands.options import (
    DeviceOption,
    DTypeOption,
    HeadsOption,
    JsonOption,
    ModelOption,
    QuantOption,
)
from medusa_chat.commands.progress import shown_progress
from medusa_chat.errors import UnsupportedModel
from medusa_chat.records import LoadProgress, LoadRequest, SamplingOptions


def bench(
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSONL of `turns` or `prompt`; its own without.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first so many prompts.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 128,
    tree_size: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Nodes of the draft tree; chosen by measurement without."),
    ] = None,
    model: ModelOption = None,
    heads: HeadsOption = None,
    quant: QuantOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer prompts greedily, plainly and with drafts, and compare."""
    from medusa_chat.prompt_file import read_prompt_file
    from medusa_chat.settings import load_settings

    settings = load_settings(model=model, quant=quant, device=device, dtype=dtype)
    request = LoadRequest(settings.model, heads, settings.quant, settings.device, settings.dtype)
    options = SamplingOptions(temperature=0.0, max_tokens=max_tokens, tree_size=tree_size)
    with shown_progress(always=False) as on_progress:
        from medusa_chat.bench.speed import OWN_PROMPTS, compare
        from medusa_chat.engine.session import open_session

        prompt_file = read_prompt_file(prompts or OWN_PROMPTS)
        if prompt_file.complaint:
            print(prompt_file.complaint, file=sys.stderr)
        chosen = prompt_file.prompts[:limit]
        session = open_session(request, on_progress)
        if session.info.num_heads == 0:
            raise UnsupportedModel(
                f"{session.info.model} has no Medusa heads to compare with; train or name some."
            )
        report = compare(
            session,
            chosen,
            options,
            lambda done: on_progress(LoadProgress(f"Prompt {done} of {len(chosen)}", done / len(chosen))),
        )
    print(json.dumps(report) if as_json else _as_text(report))


def _as_text(report: dict[str, Any]) -> str:
    lines = [
        f"{report['model']}, {report['quantization']}, {report['dtype']}, {report['tree_size']} nodes",
        report["machine"],
        "",
        f"{'':14}{'prompts':>8}{'plain tok/s':>13}{'Medusa tok/s':>14}{'tok/step':>10}{'speed-up':>10}",
    ]
    rows = [("all", report)]
    if len(report["categories"]) > 1:
        rows += report["categories"].items()
    for name, part in rows:
        plain, medusa = part["plain"], part["medusa"]
        lines.append(
            f"{name:14.14}{part['prompts']:8}{_number(plain['tokens_per_second'], 13)}"
            f"{_number(medusa['tokens_per_second'], 14)}{_number(medusa['tokens_per_step'], 10, 2)}"
            f"{_number(part['speedup'], 10, 2)}"
        )
    steps = f"a step takes {_number(report['plain']['ms_per_step'])} ms plainly"
    lines += [
        "",
        f"{steps}, {_number(report['medusa']['ms_per_step'])} ms with drafts",
        f"{report['identical']} of {report['prompts']} answers identical token by token",
    ]
    return "\n".join(lines)


def _number(value: float | None, width: int = 0, digits: int = 1) -> str:
    return f"{'–':>{width}}" if value is None else f"{value:{width}.{digits}f}"
