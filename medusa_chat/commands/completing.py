"""What the shell offers when a model's name is being typed. Runs at each Tab: imports the registry alone."""

from __future__ import annotations

from medusa_chat.errors import MedusaError


def complete_model(incomplete: str) -> list[str]:
    """Names of the registry that begin so; none where it can't be read, as a shell shows no errors."""
    from medusa_chat.registry import load_registry

    try:
        return [name for name in load_registry() if name.startswith(incomplete)]
    except MedusaError:
        return []
