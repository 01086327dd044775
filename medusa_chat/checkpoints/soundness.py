"""Whether a checkpoint folder is whole, told from names, sizes and headers alone: no weights are read."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEADER_LENGTH_BYTES = 8
_OLD_PICKLE = b"\x80\x02"  # how torch's .bin files began before they were ZIP archives
_TOKENIZERS = ("tokenizer.*", "vocab.*", "tekken.json", "*.tiktoken")
_SHARD = re.compile(r"-\d+-of-\d+\.")
HEADS_FILES = ("medusa_lm_head.safetensors", "medusa_lm_head.pt")


def find_damage(folder: Path) -> str | None:
    """What is wrong with a transformers checkpoint, as the rest of a sentence; None when it is sound."""
    missing = find_missing(folder)
    if missing is not None:
        return missing
    if read_json(folder / "config.json") is None:
        return "config.json is not JSON"
    return _find_cut(folder, _weight_files(folder))


def find_missing(folder: Path) -> str | None:
    """Which file a transformers checkpoint lacks, as the rest of a sentence; None when all are there."""
    if not (folder / "config.json").is_file():
        return "config.json is missing"
    names = _weight_files(folder)
    if not names:
        return "it holds no weights"
    return next((f"{name} is missing" for name in names if not (folder / name).is_file()), None)


def has_tokenizer(folder: Path) -> bool:
    """Whether any kind of tokenizer lies in a checkpoint's folder."""
    return any(any(folder.glob(pattern)) for pattern in _TOKENIZERS)


def find_heads_damage(folder: Path) -> str | None:
    """What is wrong with a folder of Medusa heads, as the rest of a sentence; None when it seems sound.

    They may be a file of their own or lie in the weights of their base model.
    """
    names = [name for name in HEADS_FILES if (folder / name).is_file()][:1] or _weight_files(folder)
    if not names:
        return "it holds no heads"
    missing = next((f"{name} is missing" for name in names if not (folder / name).is_file()), None)
    return missing or _find_cut(folder, names)


def is_cut_short(file: Path) -> bool:
    """Whether a file of weights ends too early, or is none."""
    return _is_cut_safetensors(file) if file.suffix == ".safetensors" else _is_cut_archive(file)


def _find_cut(folder: Path, names: list[str]) -> str | None:
    for name in names:
        if is_cut_short(folder / name):
            return f"{name} is cut short" + (" or not safetensors" if name.endswith(".safetensors") else "")
    return None


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of all tensors in a checkpoint's .safetensors, by name; none where the weights are other files, or
    their headers can't be read.
    """
    headers = [_read_header(folder / name) for name in _weight_files(folder) if name.endswith(".safetensors")]
    if None in headers:
        return {}
    return {name: shape for header in headers if header for name, shape in header.shapes.items()}


def read_json(file: Path) -> dict[str, Any] | None:
    """The object in a file; None if it holds something else."""
    try:
        content = json.loads(file.read_bytes())
    except ValueError:  # neither JSON nor UTF-8
        return None
    return content if isinstance(content, dict) else None


def _weight_files(folder: Path) -> list[str]:
    """Those that transformers would load, whether they are there or not."""
    return next(filter(None, _sets_of_weights(folder)), [])


def _sets_of_weights(folder: Path) -> Iterator[list[str]]:
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        index = folder / f"{stem}{suffix}.index.json"
        if index.is_file():
            yield _shards_in(index)
        else:
            names = sorted(file.name for file in folder.glob(f"{stem}*{suffix}"))
            yield [index.name] if any(map(_SHARD.search, names)) else names


def _shards_in(index: Path) -> list[str]:
    shard_of = (read_json(index) or {}).get("weight_map")
    return sorted(set(shard_of.values())) if isinstance(shard_of, dict) else []


def _is_cut_safetensors(file: Path) -> bool:
    header = _read_header(file)
    return header is None or header.end > file.stat().st_size


@dataclass(frozen=True, slots=True)
class _Header:
    """Of a .safetensors file: its tensors' shapes by name, and where the last of them ends."""

    shapes: dict[str, tuple[int, ...]]
    end: int


def _read_header(file: Path) -> _Header | None:
    """None if it isn't what the format says."""
    # 8 bytes of header length, little-endian; the header, JSON; the tensors' bytes.
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_HEADER_LENGTH_BYTES), "little")
        if _HEADER_LENGTH_BYTES + length > file.stat().st_size:
            return None
        header_bytes = stream.read(length)
    try:
        tensors = {name: entry for name, entry in json.loads(header_bytes).items() if name != "__metadata__"}
        end = max(int(entry["data_offsets"][1]) for entry in tensors.values())
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in tensors.items()}
    except (ValueError, AttributeError, KeyError, IndexError, TypeError):
        return None
    return _Header(shapes, _HEADER_LENGTH_BYTES + length + end)


def _is_cut_archive(file: Path) -> bool:
    # A ZIP archive's directory is at its end; a pickle of old says nothing of its length.
    with file.open("rb") as stream:
        return not (zipfile.is_zipfile(stream) or _starts_with(stream, _OLD_PICKLE))


def _starts_with(stream: Any, start: bytes) -> bool:
    stream.seek(0)
    return bool(stream.read(len(start)) == start)
