"""`medusa-chat pull NAME`: fetch a model now rather than at its first use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from medusa_chat.commands.completing import complete_model
from medusa_chat.commands.options import HeadsOption
from medusa_chat.commands.progress import shown_progress
from medusa_chat.errors import MedusaError
from medusa_chat.records import LoadProgress

if TYPE_CHECKING:
    from medusa_chat.checkpoints.pull_lines import Pulled


def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A model `models` lists, or OWNER/NAME on the hub.",
            autocompletion=complete_model,
        ),
    ],
    heads: HeadsOption = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON objects, one a line: {kind: progress, progress: {message, fraction, num_bytes}} "
            "as it goes, at last {kind: done, name, folder, was_here} or {kind: failed, error, message}.",
        ),
    ] = False,
) -> None:
    """Fetch a model and its heads, or replace what is damaged."""
    if as_json:
        _pull_telling_lines(name, heads)
        return
    with shown_progress(always=True) as on_progress:
        pulled = _pull(name, heads, on_progress)
    print(f"{pulled.name} is here {'already' if pulled.was_here else 'now'}: {pulled.folder}")


def _pull_telling_lines(name: str, heads: str | None) -> None:
    from medusa_chat.checkpoints.pull_lines import Failed, Line, Progressed, encode_line

    def tell(line: Line) -> None:
        print(encode_line(line), flush=True)

    try:
        tell(_pull(name, heads, lambda progress: tell(Progressed(progress))))
    except MedusaError as error:
        tell(Failed(type(error).__name__, str(error)))
        raise


def _pull(name: str, heads: str | None, on_progress: Callable[[LoadProgress], None]) -> Pulled:
    from medusa_chat import checkpoints
    from medusa_chat.checkpoints.plans import plan_pull
    from medusa_chat.checkpoints.pull_lines import Pulled
    from medusa_chat.registry import resolve, resolve_heads

    spec = resolve(name)
    plan = plan_pull(spec, resolve_heads(spec, heads))
    if plan is not None and plan.model:
        checkpoints.pull(spec, on_progress)
    if plan is not None and plan.heads is not None:
        checkpoints.pull_heads(plan.heads, on_progress)
    return Pulled(spec.name, str(checkpoints.ensure_local(spec, on_progress)), plan is None)
