"""The chat as the command line opens it, but on the benchmark's scripted engine: a program to be measured.

Run as `python -m medusa_chat.commands.scripted_chat [--continue] [--screen-reader]`.
"""

from __future__ import annotations

import sys

from medusa_chat.bench import scripted_engine
from medusa_chat.commands.starting import prepare_app

_PYTHON = (sys.executable, "-P", "-m")
ENGINE_COMMAND = (*_PYTHON, scripted_engine.MODULE)
PROGRAM = (*_PYTHON, "medusa_chat.commands.scripted_chat")


def main() -> int:
    prepare_app()
    from medusa_chat.app import run_app
    from medusa_chat.app.linear import run_linear
    from medusa_chat.records import LoadRequest
    from medusa_chat.settings import load_settings

    resume = "--continue" in sys.argv
    run = run_linear if "--screen-reader" in sys.argv else run_app
    return run(load_settings(), LoadRequest("scripted"), resume, engine_command=ENGINE_COMMAND)


if __name__ == "__main__":
    sys.exit(main())
