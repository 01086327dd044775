"""`medusa-chat eval MODEL`: what its heads are worth."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medusa_chat.commands.options import (
    DeviceOption,
    DTypeOption,
    HeadsOption,
    JsonOption,
    ModelArgument,
    QuantOption,
    print_remarks,
)
from medusa_chat.commands.progress import shown_progress
from medusa_chat.commands.table import as_table, figure
from medusa_chat.records import LoadProgress, LoadRequest

if TYPE_CHECKING:
    from medusa_chat.engine.opening import OpenModel
    from medusa_chat.model.heads import MedusaHeads
    from medusa_chat.prompt_file import UserPrompt

_LIMIT = 12
_MAX_TOKENS = 96
_BAR = 40  # characters of the longest bar


def evaluate(
    model: ModelArgument,
    heads: HeadsOption = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSONL of `turns` or `prompt`, or text, a prompt a line; its own without."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Prompts to use, spread over the file.")] = _LIMIT,
    max_tokens: Annotated[int, typer.Option(min=8, help="Of each answer.")] = _MAX_TOKENS,
    quant: QuantOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model's heads: how often they are right, and how many tokens a step brings."""
    from medusa_chat.errors import UsageError
    from medusa_chat.prompt_file import read_prompt_file
    from medusa_chat.settings import load_settings

    settings = load_settings(model=model, quant=quant, device=device, dtype=dtype)
    with shown_progress(always=False) as on_progress:
        from medusa_chat.bench.speed import OWN_PROMPTS
        from medusa_chat.engine.opening import fetch, open_heads, open_model

        prompt_file = read_prompt_file(prompts or OWN_PROMPTS)
        request = LoadRequest(settings.model, heads, settings.quant, settings.device, settings.dtype)
        fetch(request, on_progress)
        opened = open_model(request, on_progress)
        found = open_heads(opened, heads)
        if found is None:
            raise UsageError(
                f"{opened.spec.name} has no heads to measure; name some with --heads, or train them with "
                f"`medusa-chat train {model}`."
            )
        print_remarks(found.remarks)
        report = measure(opened, found, prompt_file.prompts, on_progress, limit, max_tokens)
    if prompt_file.complaint:
        print(prompt_file.complaint, file=sys.stderr)
    print(json.dumps(report) if as_json else as_text(report))


def measure(
    model: OpenModel,
    heads: MedusaHeads,
    prompts: Sequence[UserPrompt],
    on_progress: Callable[[LoadProgress], None],
    limit: int = _LIMIT,
    max_tokens: int = _MAX_TOKENS,
) -> dict[str, Any]:
    """The report on `limit` of the prompts, spread over them all. Takes over the model's weights."""
    from medusa_chat.training.evaluation import evaluate as measure_on

    chosen = prompts[:: max(1, len(prompts) // limit)][:limit]
    return measure_on(
        model,
        heads,
        chosen,
        max_tokens,
        lambda number: on_progress(LoadProgress(f"Prompt {number} of {len(chosen)}")),
    )


def as_text(report: dict[str, Any]) -> str:
    """The report with bars of what was measured."""
    top = report["top_accuracy"]
    num_heads = len(top["1"])
    accuracy = [
        (f"head {head + 1}", *(figure(top[count][head], 2) for count in top)) for head in range(num_heads)
    ]
    measured = report["measured"]
    sizes = list(report["expected"])
    steps = [
        (
            size,
            figure(report["expected"][size], 2),
            figure(measured[size], 2),
            figure(measured[f"lookup, {size}"], 2),
        )
        for size in sizes
    ]
    kinds = [
        (name, str(part["prompts"]), *(figure(part["measured"][size], 2) for size in sizes))
        for name, part in report["categories"].items()
    ]
    return "\n\n".join(
        [
            f"{report['model']}, {report['heads']} heads, "
            f"{report['prompts']} prompt{'' if report['prompts'] == 1 else 's'}, "
            f"greedy replies of up to {report['max_tokens']} tokens, {report['machine']}",
            _with_bars(as_table(("right", *(f"top-{count}" for count in top)), accuracy), top["1"]),
            "tokens a step\n"
            + _with_bars(
                as_table(("nodes", "static, expected", "heads alone", "with lookup"), steps),
                [measured[size] for size in sizes],
            ),
            "heads alone, by kind of prompt\n" + as_table(("", "prompts", *sizes), kinds),
        ]
    )


def _with_bars(table: str, values: Sequence[float]) -> str:
    """Behind each row but the headings a bar for its value."""
    first, *rows = table.splitlines()
    bars = ("█" * round(_BAR * value / max(*values, 1.0)) for value in values)
    return "\n".join([first, *(f"{row}  {bar}" for row, bar in zip(rows, bars, strict=True))])
