"""What a pull of a model and its heads would fetch, from where to where; nobody is asked over a network."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from medusa_chat import checkpoints
from medusa_chat.checkpoints import hub_cache
from medusa_chat.checkpoints.pulling import room_needed
from medusa_chat.registry import HubSource, ModelSpec, WheelSource


@dataclass(frozen=True, slots=True)
class PullPlan:
    """model: whether the base model has to be fetched. heads: the repository of those that have to be.
    num_bytes: of the download; room_bytes: on the disk while it is made ready; None where nobody knows yet.
    """

    spec: ModelSpec
    model: bool
    heads: HubSource | None
    folder: Path
    num_bytes: int | None
    room_bytes: int | None

    @property
    def origins(self) -> tuple[str, ...]:
        """Where it comes from, in words."""
        source = self.spec.source
        base: tuple[str, ...] = ()
        if self.model and source is not None:
            base = (f"PyPI, {source.wheel}" if isinstance(source, WheelSource) else _on_hub(source),)
        heads = (_on_hub(self.heads),) if self.heads is not None else ()
        return tuple(dict.fromkeys((*base, *heads)))

    @property
    def free_bytes(self) -> int:
        """On the disk that it goes to."""
        existing = next(
            parent for parent in (self.folder, *self.folder.absolute().parents) if parent.exists()
        )
        return shutil.disk_usage(existing).free


def plan_pull(spec: ModelSpec, heads: Path | HubSource | None) -> PullPlan | None:
    """None where model and heads are here and whole, and where there is no source to fetch them from."""
    model = spec.source is not None and not checkpoints.is_sound(spec)
    wanted = heads if isinstance(heads, HubSource) and not checkpoints.heads_are_here(heads) else None
    if not model and wanted is None:
        return None
    folder = checkpoints.find_home(spec) if model or wanted is None else hub_cache.repo_dir(wanted)
    num_bytes = spec.download_bytes if model else spec.heads_bytes or None
    room_bytes = num_bytes
    if model and isinstance(spec.source, WheelSource):
        room_bytes = room_needed(spec, spec.source)
    return PullPlan(spec, model, wanted, folder, num_bytes, room_bytes)


def _on_hub(source: HubSource) -> str:
    return f"the hub, {source.repo}"
