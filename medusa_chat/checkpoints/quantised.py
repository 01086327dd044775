"""Copies of models in 4 or 8 bits, kept so that later loads need not quantise. Safe to delete.

Each is a transformers checkpoint in a folder of its own, named after all that its bits follow from: what the
base is, how it was quantised, and by which versions of the libraries. copy.json in it tells of that.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medusa_chat import paths
from medusa_chat.checkpoints import hub_cache
from medusa_chat.checkpoints.one_at_a_time import if_alone
from medusa_chat.checkpoints.weight_names import model_weights, read_json
from medusa_chat.errors import CheckpointError
from medusa_chat.quantities import size
from medusa_chat.records import Quantization
from medusa_chat.registry import spec_name

_LIBRARIES = ("bitsandbytes", "transformers", "torch")
_ABOUT = "copy.json"
_LOCK = ".lock"
_UNFINISHED = ".partial"
_SPARE_BYTES = 10**9  # left free on the disk, for what matters more
_DIGITS = 12  # of a digest, enough to tell copies apart


@dataclass(frozen=True, slots=True)
class QuantisedCopy:
    """about: model, quantization, dtype and device that it is for, versions, and its base: repo and commit
    or files with sizes and times, and the folder where it lay.
    """

    folder: Path
    about: dict[str, Any]

    @property
    def kind(self) -> str:
        """4-bit or 8-bit."""
        return str(self.about.get("quantization", "quantised")).replace("bit", "-bit")

    @property
    def num_bytes(self) -> int:
        return _bytes_in(self.folder)

    @property
    def is_stale(self) -> bool:
        """Whether nothing can use it as things are: its base is gone, or other versions are installed."""
        base = Path(self.about.get("base", {}).get("folder", ""))
        return self.about.get("versions") != _installed() or not (base / "config.json").is_file()


def copies_dir() -> Path:
    """The folder in which all copies lie."""
    return paths.cache_dir() / "quantised"


def copy_of(base: Path, quantization: Quantization, dtype: str, device: str) -> QuantisedCopy:
    """The copy of the checkpoint in `base`, whether it is there or not. dtype: of what is not quantised.
    device: cpu or cuda, since their kernels may round differently.
    """
    folder = base.resolve()
    source = hub_cache.find_source(folder)
    model, identity = (
        (folder.name, {"files": _files_of(folder), "folder": str(folder)})
        if source is None
        else (source[0], {"repo": source[0], "commit": source[1]})
    )
    about = {
        "model": model,
        "base": identity,
        "quantization": quantization,
        "dtype": dtype,
        "device": device,
        "versions": _installed(),
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:_DIGITS]
    about["base"] = {**identity, "folder": str(folder)}
    return QuantisedCopy(copies_dir() / f"{spec_name(model)}-{quantization}-{digest}", about)


def make_copy(copy: QuantisedCopy, num_bytes: int, save: Callable[[Path], None]) -> str | None:
    """Has `save` write the checkpoint into an empty folder, which then becomes the copy at one stroke.

    Returns why there is none, to be said after a colon, and never raises: the model is in memory, and does
    without. Leaves it to another process that is making one.
    """
    home = copies_dir()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with if_alone(home / _LOCK) as alone:
            if not alone or copy.folder.exists():
                return None
            _clear_unfinished(home)
            _make_room(home, num_bytes)
            unfinished = home / f".{copy.folder.name}{_UNFINISHED}"
            unfinished.mkdir()
            try:
                save(unfinished)
                (unfinished / _ABOUT).write_text(json.dumps(copy.about, indent=1) + "\n", encoding="utf-8")
                _flush(unfinished)
                os.replace(unfinished, copy.folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except Exception as error:  # libraries fail in many ways
        return str(getattr(error, "strerror", None) or error).partition("\n")[0] or type(error).__name__
    return None


def read_copies() -> list[QuantisedCopy]:
    """All that are there, by name."""
    home = copies_dir()
    folders = sorted(home.iterdir()) if home.is_dir() else []
    return [
        QuantisedCopy(folder, read_json(folder / _ABOUT) or {})
        for folder in folders
        if (folder / _ABOUT).is_file()
    ]


def bytes_kept() -> int:
    """Bytes on the disk of all copies, finished or not."""
    return _bytes_in(copies_dir())


def prune() -> int:
    """Removes all copies and what was left of unfinished ones; returns how many bytes that freed.

    Raises CheckpointError if that can't be done just now.
    """
    home, before = copies_dir(), bytes_kept()
    if not home.is_dir():
        return 0
    try:
        with if_alone(home / _LOCK) as alone:
            if not alone:
                raise CheckpointError(
                    "Another medusa-chat is just keeping quantised weights; try again when it is done."
                )
            for folder in home.iterdir():
                if folder.is_dir():
                    discard(folder)
    except OSError as error:
        raise CheckpointError(
            f"The copies in {home} can't be removed ({error.strerror or error}); see to its rights, or end "
            "other medusa-chats, and try again."
        ) from None
    return before - bytes_kept()


def discard(folder: Path) -> None:
    """Removes a copy, which vanishes at one stroke: nobody finds half of it. Raises OSError."""
    doomed = folder if folder.name.startswith(".") else folder.with_name(f".{folder.name}{_UNFINISHED}")
    if doomed != folder:
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(folder, doomed)
    shutil.rmtree(doomed)


def _clear_unfinished(home: Path) -> None:
    # We hold the lock, so whoever made these is gone.
    for folder in home.glob(f".*{_UNFINISHED}"):
        shutil.rmtree(folder, ignore_errors=True)


def _make_room(home: Path, num_bytes: int) -> None:
    """Raises OSError unless there is room; where it is short, copies that nothing can use are removed."""
    needed = num_bytes + _SPARE_BYTES
    for copy in read_copies():
        if shutil.disk_usage(home).free < needed and copy.is_stale:
            discard(copy.folder)
    free = shutil.disk_usage(home).free
    if free < needed:
        raise OSError(f"they take {size(num_bytes)}, and {home} has {size(free)} free")


def _files_of(folder: Path) -> dict[str, list[int]]:
    """Sizes and times of all that a model's weights follow from."""
    files = [folder / name for name in ("config.json", *model_weights(folder))]
    stats = {file.name: file.stat() for file in files if file.is_file()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _installed() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def _flush(folder: Path) -> None:
    """Onto the disk, so that no crash leaves a copy under its name with holes in it."""
    for file in folder.iterdir():
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
