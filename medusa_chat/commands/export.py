"""`medusa-chat export MODEL`: its heads for another program."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from medusa_chat.commands.options import HeadsOption, ModelArgument
from medusa_chat.commands.progress import shown_progress
from medusa_chat.records import HeadFormat, LoadRequest


def export(
    model: ModelArgument,
    form: Annotated[HeadFormat, typer.Option("--format", help="Whose format.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write; empty or new.")],
    heads: HeadsOption = None,
) -> None:
    """Write a model's Medusa heads as the reference code, vLLM or text-generation-inference reads them."""
    from medusa_chat.errors import UsageError
    from medusa_chat.registry import resolve

    spec = resolve(model)
    with shown_progress(always=True) as on_progress:
        from medusa_chat.checkpoints import ensure_heads
        from medusa_chat.engine.opening import heads_source, open_model
        from medusa_chat.model.head_files import load_heads
        from medusa_chat.model.head_formats import check_exportable, check_vacant, export_heads

        place = heads_source(spec, spec.folder, heads)
        if place is None:
            raise UsageError(
                f"{spec.name} has no heads to export; name some with --heads, or train them with "
                f"`medusa-chat train {model} --head-kind block`."
            )
        check_vacant(out)
        blocks = check_exportable(load_heads(ensure_heads(place, on_progress)), form)
        base = open_model(LoadRequest(model, device="cpu"), on_progress).base  # nothing is computed
        blocks.check_fits(base, spec.base)
        blocks.share_lm_head(base)
        exported = export_heads(blocks, base, spec.base, form)
        exported.save(out)
    for remark in (*blocks.remarks, *exported.remarks):
        print(remark)
    print(f"The heads are in {out}.{_usage(form, spec.base, out, blocks.num_heads)}")


def _usage(form: HeadFormat, base: str, out: Path, num_heads: int) -> str:
    if form == "medusa":
        return ""
    if form == "tgi":
        return f" Serve them: text-generation-launcher --model-id {shlex.quote(str(out))}"
    config = {"method": "medusa", "model": str(out), "num_speculative_tokens": num_heads}
    quoted = shlex.quote(json.dumps(config))
    return f" Serve them: vllm serve {shlex.quote(base)} --speculative-config {quoted}"
