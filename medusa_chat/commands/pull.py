"""`medusa-chat pull NAME`: fetch a model now rather than at its first use."""

from __future__ import annotations

from typing import Annotated

import typer

from medusa_chat.commands.progress import shown_progress


def pull(name: Annotated[str, typer.Argument(metavar="NAME", help="A model `models` lists.")]) -> None:
    """Fetch a model and convert it, or replace one that is damaged."""
    from medusa_chat import checkpoints
    from medusa_chat.registry import resolve

    spec = resolve(name)
    if checkpoints.is_sound(spec):
        print(f"{spec.name} is here already: {checkpoints.ensure_local(spec, lambda _: None)}")
        return
    with shown_progress(always=True) as on_progress:
        folder = checkpoints.pull(spec, on_progress)
    print(f"{spec.name} is here now: {folder}")
