"""`medusa-chat bench`: what drafting gains on this machine, prompt by prompt in one run.

Its sub-commands time the parts on random weights of well-known shapes, and the chat on a scripted engine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from medusa_chat.commands.bench_parts import kernels, step
from medusa_chat.commands.bench_ui import ui
from medusa_chat.commands.options import (
    ContextOption,
    DeviceOption,
    DTypeOption,
    HeadsOption,
    JsonOption,
    KVCacheOption,
    LMHeadOption,
    ModelOption,
    QuantOption,
    TreeOption,
    print_remarks,
    with_overrides,
)
from medusa_chat.commands.progress import shown_progress
from medusa_chat.commands.table import as_table, figure
from medusa_chat.errors import UsageError
from medusa_chat.records import LoadProgress, SamplingOptions

bench = typer.Typer(name="bench", rich_markup_mode=None)
bench.command()(step)
bench.command()(kernels)
bench.command()(ui)


@bench.callback(invoke_without_command=True)
def compare_decoding(
    context: typer.Context,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSONL of `turns` or `prompt`, or text, a prompt a line; its own without."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first so many prompts.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 128,
    tree_size: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Nodes of the draft tree; chosen step by step without."),
    ] = None,
    tree: TreeOption = None,
    generate_limit: Annotated[
        int, typer.Option(min=0, help="Answer the first so many also by transformers' generate(); 0 is off.")
    ] = 3,
    model: ModelOption = None,
    heads: HeadsOption = None,
    quant: QuantOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    kv_cache: KVCacheOption = None,
    lm_head: LMHeadOption = None,
    context_length: ContextOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer prompts greedily, plainly and with drafts, and compare. With --kv-cache 8bit or --lm-head 4bit,
    tell also how far replies stay those of the full one.
    """
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    from medusa_chat.decoding.chosen_tree import check_tree
    from medusa_chat.prompt_file import read_prompt_file
    from medusa_chat.settings import load_settings

    settings = load_settings(
        model=model,
        quant=quant,
        device=device,
        dtype=dtype,
        kv_cache=kv_cache,
        lm_head=lm_head,
        context_length=context_length,
    )
    request = settings.load_request(heads)
    greedy = SamplingOptions(temperature=0.0, max_tokens=max_tokens)
    options = with_overrides(greedy, tree_size=tree_size, tree=tree)
    check_tree(options.tree)
    with shown_progress(always=False) as on_progress:
        from medusa_chat.bench.agreement import measure_agreement
        from medusa_chat.bench.generation import measure_generate
        from medusa_chat.bench.speed import OWN_PROMPTS, compare, over_generate
        from medusa_chat.engine.session import open_session

        prompt_file = read_prompt_file(prompts or OWN_PROMPTS)
        if prompt_file.complaint:
            print(prompt_file.complaint, file=sys.stderr)
        chosen = prompt_file.prompts[:limit]
        session = open_session(request, on_progress)
        print_remarks(session.info.remarks)
        report = compare(
            session,
            chosen,
            options,
            lambda done: on_progress(LoadProgress(f"Prompt {done} of {len(chosen)}", done / len(chosen))),
        )
        info = session.info
        session.close()  # one model in memory at a time
        if (info.kv_cache, info.lm_head) != ("full", "full"):
            report["agreement"] = measure_agreement(request, info, chosen, max_tokens, on_progress)
        if generate_limit:
            generated = measure_generate(request, info, chosen[:generate_limit], max_tokens, on_progress)
            report |= over_generate(report, generated)
    print(json.dumps(report) if as_json else _as_text(report))


def _refuse_options(context: typer.Context) -> None:
    """Options before a sub-command would be lost without a word."""
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if (source := context.get_parameter_source(str(parameter.name))) is not None
        and source.name == "COMMANDLINE"
    ]
    if given:
        raise UsageError(
            f"{given[0]} must come after {context.invoked_subcommand}, if that command takes it."
        )


def _as_text(report: dict[str, Any]) -> str:
    parts = [("all", report)]
    if len(report["categories"]) > 1:
        parts += report["categories"].items()
    rows = [
        (
            name,
            str(part["prompts"]),
            figure(part["plain"]["tokens_per_second"]),
            figure(part["medusa"]["tokens_per_second"]),
            figure(part["medusa"]["tokens_per_step"], 2),
            figure(part["speedup"], 2),
        )
        for name, part in parts
    ]
    lines = [
        f"{report['model']}, {report['quantization']}, {report['dtype']}, KV cache {report['kv_cache']}, "
        f"LM head {report['lm_head']}, {report['tree_size']} nodes",
        report["machine"],
        "",
        as_table(("", "prompts", "plain tok/s", "Medusa tok/s", "tok/step", "speed-up"), rows),
        "",
        f"a step takes {figure(report['plain']['ms_per_step'])} ms plainly, "
        f"{figure(report['medusa']['ms_per_step'])} ms with drafts",
        f"{report['identical']} of {report['prompts']} answers identical token by token",
    ]
    if "agreement" in report:
        kept = report["agreement"]
        lines.append(
            f"against the full KV cache and LM head: {kept['identical']} of {kept['replies']} replies "
            f"identical, {figure(100 * kept['agreement'])}% of tokens chosen alike, "
            f"{figure(kept['divergence'], 4)} nats apart a token"
        )
    if "generate" in report:
        generated = report["generate"]
        lines.append(
            f"transformers' generate(): {figure(generated['tokens_per_second'])} tok/s on the first "
            f"{generated['prompts']}; Medusa is {figure(report['speedup_over_generate'], 2)} times as fast"
        )
    return "\n".join(lines)
