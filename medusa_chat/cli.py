"""The root of the command line. Imports nothing heavy at the top, so that --help is instant.

A command of another room is a function with Typer annotations in commands/, added below; it imports its
room inside.
"""

from __future__ import annotations

import gc
import io
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import typer

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
from medusa_chat.commands.starting import prepare_app
from medusa_chat.errors import MedusaError, UsageError

# Without rich: its markup would triple the time --help takes.
app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=False)
_OF_THE_CHAT_ALONE = ("--continue", "--screen-reader")
_COMPLETES = "_MEDUSA_CHAT_COMPLETE"  # set by a shell that asks what could be typed next


def add_commands() -> None:
    """The sub-commands. The chat alone needs none of them, and is there the sooner without."""
    from medusa_chat.commands.bench import bench
    from medusa_chat.commands.doctor import doctor
    from medusa_chat.commands.eval import evaluate
    from medusa_chat.commands.export import export
    from medusa_chat.commands.history import history
    from medusa_chat.commands.inspect import inspect
    from medusa_chat.commands.models import models
    from medusa_chat.commands.pull import pull
    from medusa_chat.commands.say import say
    from medusa_chat.commands.train import train

    for command in (say, models, pull, inspect, train, export, doctor):
        app.command()(command)
    app.command("eval")(evaluate)
    app.add_typer(bench)
    app.add_typer(history)


@dataclass(slots=True)
class Invocation:
    """What the root learns that outlives the parsing."""

    debug: bool = False


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command line and exits: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of another encoding is no reason to fail
    # Otherwise a GPU's memory is kept in blocks that quantising has left full of holes, 0.7 GB of a 7B model.
    # torch reads it before it first takes any; the engine's process inherits it.
    if sys.platform == "linux" and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    given = sys.argv[1:] if arguments is None else arguments
    if _COMPLETES in os.environ or not set(given) <= set(_OF_THE_CHAT_ALONE):
        add_commands()
    invocation = Invocation()
    try:
        app(args=arguments, obj=invocation, prog_name="medusa-chat")
    except Exception as error:
        if invocation.debug:
            traceback.print_exc()
        print(_sentence(error), file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    sys.exit(0)


def _sentence(error: Exception) -> str:
    if isinstance(error, MedusaError):
        return str(error)
    first_line = str(error).partition("\n")[0]
    return (
        f"This should not have happened: {type(error).__name__}: {first_line}. "
        "Run it again as `medusa-chat --debug …` to see where, and please report it."
    )


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
        raise typer.Exit(_open_app(settings, heads, resume))
    settings |= {"heads": heads, "context": context_length}
    given = [f"--{name.replace('_', '-')}" for name, value in settings.items() if value is not None]
    given += ["--continue"] if resume else []
    given += ["--screen-reader"] if screen_reader else []
    if given:
        raise UsageError(
            f"{given[0]} must come after {context.invoked_subcommand}, if that command takes it."
        )


def _open_app(overrides: dict[str, Any], heads: str | None, resume: bool) -> int:
    prepare_app()
    from medusa_chat.decoding.chosen_tree import check_tree
    from medusa_chat.registry import resolve
    from medusa_chat.settings import load_settings

    settings = load_settings(**overrides)
    # Wrong names fail here, in the shell, and not behind the screen.
    check_tree(settings.sampling.tree)
    resolve(settings.model)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError('The chat needs a terminal. Without one, use `medusa-chat say "…"`.')
    request = settings.load_request(heads)
    if settings.screen_reader or os.environ.get("TERM") == "dumb":  # one that can't move its cursor
        from medusa_chat.app.linear import run_linear

        gc.enable()  # there is no quiet moment to wait for
        return run_linear(settings, request, resume)
    from medusa_chat.app import run_app

    return run_app(settings, request, resume)


if __name__ == "__main__":
    main()
