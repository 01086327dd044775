"""The root of the command line: what comes before the commands, and the commands themselves.

A command is a function with Typer annotations beside this file. It imports its room inside, so that --help is
instant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from medusa_chat.commands.bench import bench
from medusa_chat.commands.chat import open_chat
from medusa_chat.commands.doctor import doctor
from medusa_chat.commands.eval import evaluate
from medusa_chat.commands.export import export
from medusa_chat.commands.history import history
from medusa_chat.commands.inspect import inspect
from medusa_chat.commands.models import models
from medusa_chat.commands.options import (
    ContextOption,
    DeviceOption,
    DTypeOption,
    HeadsOption,
    KVCacheOption,
    LMHeadOption,
    ModelOption,
    QuantOption,
)
from medusa_chat.commands.pull import pull
from medusa_chat.commands.say import say
from medusa_chat.commands.train import train
from medusa_chat.errors import UsageError


class _Commands(TyperGroup):
    """Says what is wrong with a value without pydantic's prefix, which tells nothing to who typed it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _plain_reasons():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _plain_reasons():
            return super().invoke(ctx)


@contextmanager
def _plain_reasons() -> Iterator[None]:
    try:
        yield
    except typer.BadParameter as error:
        error.message = error.message.removeprefix("Value error, ")
        raise


# Without rich: its markup would triple the time --help takes.
app = typer.Typer(cls=_Commands, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=False)
for command in (say, models, pull, inspect, train, export, doctor):
    app.command()(command)
app.command("eval")(evaluate)
app.add_typer(bench)
app.add_typer(history)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"medusa-chat {version('medusa-chat')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    model: ModelOption = None,
    heads: HeadsOption = None,
    quant: QuantOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    kv_cache: KVCacheOption = None,
    lm_head: LMHeadOption = None,
    context_length: ContextOption = None,
    resume: Annotated[bool, typer.Option("--continue", help="Go on with the last conversation.")] = False,
    screen_reader: Annotated[
        bool, typer.Option("--screen-reader", help="Plain lines, made to be read aloud.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Chat in the terminal with a model that drafts with Medusa heads."""
    context.obj.debug = debug
    settings: dict[str, Any] = {
        "model": model, "quant": quant, "device": device, "dtype": dtype, "kv_cache": kv_cache,
        "lm_head": lm_head,
    }  # fmt: skip
    if context.invoked_subcommand is None:
        settings |= {"context_length": context_length, "screen_reader": screen_reader or None}
        raise typer.Exit(open_chat(settings, heads, resume))
    settings |= {"heads": heads, "context": context_length}
    given = [f"--{name.replace('_', '-')}" for name, value in settings.items() if value is not None]
    given += ["--continue"] if resume else []
    given += ["--screen-reader"] if screen_reader else []
    if given:
        raise UsageError(
            f"{given[0]} must come after {context.invoked_subcommand}, if that command takes it."
        )
