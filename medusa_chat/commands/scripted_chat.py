"""The chat as the command line opens it, but on the benchmark's scripted engine: a program to be measured.

Run as `python -m medusa_chat.commands.scripted_chat [--continue]`.
"""

from __future__ import annotations

import sys

from medusa_chat.app import run_app
from medusa_chat.records import LoadRequest
from medusa_chat.settings import load_settings

ENGINE_COMMAND = (sys.executable, "-P", "-m", "medusa_chat.bench.scripted_engine")
PROGRAM = (sys.executable, "-P", "-m", "medusa_chat.commands.scripted_chat")

if __name__ == "__main__":
    sys.exit(
        run_app(
            load_settings(),
            LoadRequest("scripted"),
            resume="--continue" in sys.argv,
            engine_command=ENGINE_COMMAND,
        )
    )
