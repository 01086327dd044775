"""The chat as it is opened from a shell."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from typing import Any

from medusa_chat.commands.starting import prepare_app
from medusa_chat.errors import UsageError


def open_chat(overrides: Mapping[str, Any], heads: str | None, resume: bool) -> int:
    """Returns its exit status. overrides: of settings. resume: go on with the last conversation.

    Raises a MedusaError for what is wrong before the screen is there.
    """
    prepare_app()
    from medusa_chat.decoding.chosen_tree import check_tree
    from medusa_chat.registry import resolve, resolve_heads
    from medusa_chat.settings import load_settings

    settings = load_settings(**overrides)
    # Wrong names fail here, in the shell, and not behind the screen.
    check_tree(settings.sampling.tree)
    resolve_heads(resolve(settings.model), heads)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError('The chat needs a terminal. Without one, use `medusa-chat say "…"`.')
    request = settings.load_request(heads)
    if settings.screen_reader or os.environ.get("TERM") == "dumb":  # one that can't move its cursor
        from medusa_chat.app.linear import run_linear

        gc.enable()  # there is no quiet moment to wait for
        return run_linear(settings, request, resume)
    from medusa_chat.app import run_app

    return run_app(settings, request, resume)
