"""Whether a checkpoint folder is whole, told from names, sizes and headers alone: no weights are read."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

_HEADER_LENGTH_BYTES = 8


def find_damage(folder: Path) -> str | None:
    """What is wrong with a transformers checkpoint, as the rest of a sentence; None when it is sound."""
    config = folder / "config.json"
    if not config.is_file():
        return "config.json is missing"
    if _read_json(config) is None:
        return "config.json is not JSON"
    names = _weight_files(folder)
    if not names:
        return "it holds no safetensors weights"
    for name in names:
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _is_cut_short(folder / name):
            return f"{name} is cut short" + ("" if name.endswith(".bin") else " or not safetensors")
    return None


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_bytes())
    except ValueError:  # neither JSON nor UTF-8
        return None
    return content if isinstance(content, dict) else None


def _weight_files(folder: Path) -> list[str]:
    # In the order in which transformers looks for them.
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        index_file = folder / f"{stem}{suffix}.index.json"
        if index_file.is_file():
            shard_of = (_read_json(index_file) or {}).get("weight_map")
            return sorted(set(shard_of.values())) if isinstance(shard_of, dict) else []
        files = sorted(file.name for file in folder.glob(f"{stem}*{suffix}"))
        if files:
            return files
    return []


def _is_cut_short(file: Path) -> bool:
    if file.suffix == ".bin":
        return _is_cut_zip(file)
    # A safetensors file: 8 bytes of header length, little-endian; the header, JSON; the tensors' bytes.
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_HEADER_LENGTH_BYTES), "little")
        if _HEADER_LENGTH_BYTES + length > size:
            return True
        header_bytes = stream.read(length)
    try:
        tensors = [entry for name, entry in json.loads(header_bytes).items() if name != "__metadata__"]
        end: int = max(entry["data_offsets"][1] for entry in tensors)
    except (ValueError, AttributeError, KeyError, IndexError, TypeError):
        return True  # not what the format says
    return _HEADER_LENGTH_BYTES + length + end > size


def _is_cut_zip(file: Path) -> bool:
    """torch's files are zip archives, whose directory is at the end; very old ones are bare pickles."""
    with file.open("rb") as stream:
        is_zip = stream.read(2) == b"PK"
    return is_zip and not zipfile.is_zipfile(file)
