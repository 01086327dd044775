"""What the user is asked about before a request is loaded. What that takes is imported when it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from medusa_chat.errors import MedusaError
from medusa_chat.records import LoadRequest

if TYPE_CHECKING:
    from medusa_chat.checkpoints.plans import PullPlan

ToFetch = Callable[[LoadRequest], "PullPlan | None"]


def to_fetch(request: LoadRequest) -> PullPlan | None:
    """What must be fetched before this can be loaded; None where nothing must, or where loading itself will
    say what is wrong.
    """
    from medusa_chat.checkpoints.plans import plan_pull
    from medusa_chat.registry import resolve, resolve_heads

    try:
        spec = resolve(request.model)
        return plan_pull(spec, resolve_heads(spec, request.heads))
    except (MedusaError, OSError):
        return None


def fetch_nothing(_: LoadRequest) -> PullPlan | None:
    """In place of to_fetch, for engines that need no model here."""
    return None
