"""`medusa-chat pull NAME`: fetch a model now rather than at its first use."""

from __future__ import annotations

from typing import Annotated

import typer

from medusa_chat.commands.completing import complete_model
from medusa_chat.commands.progress import shown_progress


def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A model `models` lists, or OWNER/NAME on the hub.",
            autocompletion=complete_model,
        ),
    ],
) -> None:
    """Fetch a model and its heads, or replace what is damaged."""
    from medusa_chat import checkpoints
    from medusa_chat.registry import HubSource, resolve

    spec = resolve(name)
    has_model = checkpoints.is_sound(spec)
    heads = spec.heads_place
    heads_to_pull = heads if isinstance(heads, HubSource) and not checkpoints.heads_are_here(heads) else None
    if has_model and heads_to_pull is None:
        print(f"{spec.name} is here already: {checkpoints.ensure_local(spec, lambda _: None)}")
        return
    with shown_progress(always=True) as on_progress:
        folder = (checkpoints.ensure_local if has_model else checkpoints.pull)(spec, on_progress)
        if heads_to_pull is not None:
            checkpoints.pull_heads(heads_to_pull, on_progress)
    print(f"{spec.name} is here now: {folder}")
