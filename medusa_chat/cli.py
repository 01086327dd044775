"""Where a command line begins and how it ends. Imports nothing heavy at the top: --help is instant."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from medusa_chat.errors import MedusaError, UsageError

_CONTINUE, _SCREEN_READER = "--continue", "--screen-reader"
_COMPLETES = "_MEDUSA_CHAT_COMPLETE"  # set by a shell that asks what could be typed next
_INTERRUPTED = 130


@dataclass(slots=True)
class Invocation:
    """What the root of the commands learns that outlives the parsing."""

    debug: bool = False


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command line and exits: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of another encoding is no reason to fail
    # Otherwise a GPU's memory is kept in blocks that quantising has left full of holes, 0.7 GB of a 7B model.
    # torch reads it before it first takes any; the engine's process inherits it.
    if sys.platform == "linux" and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    given = sys.argv[1:] if arguments is None else arguments
    invocation = Invocation()
    try:
        if set(given) <= {_CONTINUE, _SCREEN_READER} and _COMPLETES not in os.environ:
            sys.exit(_open_chat(given))
        from medusa_chat.commands.root import app

        app(args=given, obj=invocation, prog_name="medusa-chat")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except Exception as error:
        if invocation.debug:
            traceback.print_exc()
        print(_sentence(error), file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    sys.exit(0)


def _open_closed_streams() -> None:
    """Whoever started this may have closed some (`2>&-`): Python then has None for them, and the next file
    that is opened would get their number, which libraries in C write to.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - as long as the program runs


def _open_chat(given: Sequence[str]) -> int:
    """The chat as nearly everybody opens it: Typer and all the commands would be a fifth of its start."""
    from medusa_chat.commands.chat import open_chat

    overrides: dict[str, Any] = {"screen_reader": True} if _SCREEN_READER in given else {}
    return open_chat(overrides, heads=None, resume=_CONTINUE in given)


def _sentence(error: Exception) -> str:
    if isinstance(error, MedusaError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"There is no room left on the disk{_named(error)}: free some, then run it again."
    first_line = str(error).partition("\n")[0]
    return (
        f"This should not have happened: {type(error).__name__}: {first_line}. "
        "Run it again as `medusa-chat --debug …` to see where, and please report it."
    )


def _named(error: OSError) -> str:
    return f" of {error.filename}" if error.filename else " that this was written to"


if __name__ == "__main__":
    main()
