"""`medusa-chat bench step` and `bench kernels`: the parts of an answer, timed on random weights of well-known
shapes.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from medusa_chat.bench.shapes import SHAPES, RandomKind, ShapeName
from medusa_chat.commands.options import DeviceOption, DTypeOption, JsonOption, KVCacheOption, LMHeadOption
from medusa_chat.commands.progress import shown_progress
from medusa_chat.commands.table import as_table, figure
from medusa_chat.errors import UsageError
from medusa_chat.records import Quantization

_MAX_NODES = 64
ShapeOption = Annotated[ShapeName, typer.Option("--shape", help="Whose sizes the random weights have.")]
HeldOption = Annotated[Quantization, typer.Option("--quant", help="How the weights are held.")]


def step(
    shape: ShapeOption = "llama-2-7b",
    quant: HeldOption = "4bit",
    context: Annotated[int, typer.Option(min=1, metavar="TOKENS", help="Cached before the steps.")] = 1024,
    nodes: Annotated[str, typer.Option(metavar="N,N,…", help="Sizes of the draft tree.")] = "1,8,16,32,64",
    head_kind: Annotated[
        RandomKind, typer.Option(help="Heads with LM heads of their own, or ones that see the path.")
    ] = "block",
    with_generate: Annotated[
        bool, typer.Option("--generate", help="Time transformers' generate() beside it.")
    ] = False,
    device: DeviceOption = "auto",
    dtype: DTypeOption = "auto",
    kv_cache: KVCacheOption = None,
    lm_head: LMHeadOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time whole steps for each number of nodes, on random weights of a known shape."""
    node_counts = _node_counts(nodes)
    with shown_progress(always=False) as on_progress:
        from medusa_chat.bench.steps import measure_steps
        from medusa_chat.model.loading import pick_device, pick_dtype

        where = pick_device(device or "auto")
        report = measure_steps(
            SHAPES[shape],
            quant,
            where,
            pick_dtype(dtype or "auto", where),
            context,
            node_counts,
            on_progress,
            head_kind=head_kind,
            kv_cache=kv_cache or "full",
            lm_head=lm_head or "full",
            with_generate=with_generate,
        )
    print(json.dumps(report) if as_json else _steps_as_text(report))


def kernels(
    shape: ShapeOption = "llama-2-7b",
    quant: HeldOption = "4bit",
    dtype: DTypeOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Time each linear of a known shape, and attention, on a GPU."""
    with shown_progress(always=False) as on_progress:
        import torch

        from medusa_chat.bench.kernels import measure_kernels
        from medusa_chat.model.loading import pick_dtype

        computed_in = pick_dtype(dtype or "auto", torch.device("cuda"))
        report = measure_kernels(SHAPES[shape], quant, computed_in, on_progress)
    print(json.dumps(report) if as_json else _kernels_as_text(report))


def _node_counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or not all(1 <= count <= _MAX_NODES for count in counts):
        raise UsageError(
            f"--nodes takes numbers between 1 and {_MAX_NODES} with commas between, not {text!r}."
        )
    return counts


def _steps_as_text(report: dict[str, Any]) -> str:
    plain = report["plain"]
    rows = [
        (str(row["nodes"]), figure(row["ms_per_step"], 2), figure(row["over_plain"], 2))
        for row in report["steps"]
    ]
    lines = [
        f"{report['shape']}, {report['quantization']}, {report['dtype']}, "
        f"{report['heads']} {report['head_kind']} heads, {report['context']} tokens of context, "
        f"KV cache {report['kv_cache']}, LM head {report['lm_head']}",
        f"{report['machine']}; {report['weights']}",
        "",
        as_table(("nodes", "ms a step", "over plain"), rows),
        "",
        f"a plain step reads {figure(plain['bytes_read'] / 1e9, 2)} GB: "
        f"{figure(100 * plain['share_of_bandwidth'], 0)}% of the {figure(report['bandwidth'] / 1e9, 0)} GB/s "
        "that a large copy moves",
        f"memory, all included: {figure(report['memory_bytes'] / 1e9, 2)} GB",
    ]
    if "generate" in report:
        took = report["generate"]["ms_per_step"]
        lines.append(f"transformers' generate(): {figure(took, 2)} ms a token")
    return "\n".join(lines)


def _kernels_as_text(report: dict[str, Any]) -> str:
    linears, attention = report["linears"], report["attention"]
    cards = list(linears[0]["roofline_us"])
    parts = [
        f"{report['shape']}, {report['quantization']}, {report['dtype']}; {report['weights']}\n"
        f"{report['machine']}; a large copy moves {figure(report['bandwidth'] / 1e9, 0)} GB/s\n"
        "µs of one call; MB it moves, as a share of that; the least they, or the products, take elsewhere",
        _timed_table(
            ("linear", "out×in", "rows"),
            [(r["linear"], f"{r['outputs']}×{r['inputs']}", str(r["rows"])) for r in linears],
            linears,
            cards,
        ),
        _timed_table(
            ("context", "rows"), [(str(r["context"]), str(r["rows"])) for r in attention], attention, []
        ),
    ]
    if any(row["compiled"] for row in linears):
        parts.append(_compiled_table(linears, cards))
    return "\n\n".join(parts)


def _timed_table(
    headings: tuple[str, ...], keys: list[tuple[str, ...]], timed: list[dict[str, Any]], cards: list[str]
) -> str:
    """One line a timing: its keys, each contender's µs, MB moved, share of bandwidth, each card's least."""
    contenders = list(timed[0]["us"])
    rows = [
        (
            *key,
            *(figure(row["us"][name]) for name in contenders),
            figure(row["bytes"] / 1e6),
            f"{figure(100 * row['share_of_bandwidth'], 0)}%",
            *(figure(row["roofline_us"][name]) for name in cards),
        )
        for key, row in zip(keys, timed, strict=True)
    ]
    return as_table((*headings, *contenders, "MB", "share", *cards), rows)


def _compiled_table(linears: list[dict[str, Any]], cards: list[str]) -> str:
    """What each kernel's blocks would take on each card: registers of a thread, KB shared, share of warps."""
    rows = [
        (row["linear"], str(row["rows"]), kernel["kernel"], *(_taken(kernel[card]) for card in cards))
        for row in linears
        for kernel in row["compiled"]
    ]
    return as_table(("linear", "rows", "kernel", *cards), rows)


def _taken(on_card: dict[str, Any]) -> str:
    spilled = f", {on_card['spilled_bytes']} bytes spilled" if on_card["spilled_bytes"] else ""
    return (
        f"{on_card['registers']} registers{spilled}, {figure(on_card['shared_bytes'] / 1024)} KB, "
        f"{figure(100 * on_card['occupancy'], 0)}% of warps"
    )
