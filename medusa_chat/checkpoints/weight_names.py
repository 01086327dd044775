"""What a whole model's weights are called in a checkpoint's folder, in the order in which transformers looks
for them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

INDEX = ".index.json"
MODEL_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Plain names: an index may have been written to lead elsewhere.
_SHARD = re.compile(r"[\w.-]{1,200}\.(?:safetensors|bin)")


def model_weights(folder: Path) -> list[str]:
    """Names of the files that hold a model's weights, whether they are there or not; [] if none are told of.

    Shards without the index that tells of them give the index's name.
    """
    found = first_of(folder, MODEL_FILES)
    if found is not None:
        return shards_in(folder / found) if found.endswith(INDEX) else [found]
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    indexes = filter(lambda name: name.endswith(INDEX), MODEL_FILES)
    return [index for index in indexes if any(map(shard_pattern(index).fullmatch, names))][:1]


def first_of(folder: Path, names: Iterable[str]) -> str | None:
    """The first of these files that the folder has."""
    return next((name for name in names if (folder / name).is_file()), None)


def shards_in(index: Path) -> list[str]:
    """The files that an index lists, all beside it; [] if it isn't sound."""
    shard_of = (read_json(index) or {}).get("weight_map")
    names = list(shard_of.values()) if isinstance(shard_of, dict) else []
    is_sound = all(isinstance(name, str) and _SHARD.fullmatch(name) for name in names)
    return sorted(set(names)) if is_sound else []


def shard_pattern(index: str) -> re.Pattern[str]:
    """What the shards that an index of this name lists are called."""
    stem, _, suffix = index.removesuffix(INDEX).rpartition(".")
    return re.compile(rf"{stem}-\d+-of-\d+\.{suffix}")


def read_json(file: Path) -> dict[str, Any] | None:
    """The object in a file; None if it holds something else."""
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):  # neither JSON nor UTF-8
        return None
    return content if isinstance(content, dict) else None
