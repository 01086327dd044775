"""Whether a checkpoint folder is whole, told from names, sizes and headers alone: no weights are read."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medusa_chat.checkpoints.weight_names import model_weights, read_json

_HEADER_LENGTH_BYTES = 8
_OLD_PICKLE = b"\x80\x02"  # how torch's .bin files began before they were ZIP archives
_TOKENIZERS = ("tokenizer.*", "vocab.*", "tekken.json", "*.tiktoken")
HEADS_FILES = ("medusa_lm_head.safetensors", "medusa_lm_head.pt")


def find_damage(folder: Path) -> str | None:
    """What is wrong with a transformers checkpoint, as the rest of a sentence; None when it is sound."""
    missing = find_missing(folder)
    if missing is not None:
        return missing
    if read_json(folder / "config.json") is None:
        return "config.json is not JSON"
    return _find_cut(folder, model_weights(folder))


def find_missing(folder: Path) -> str | None:
    """Which file a transformers checkpoint lacks, as the rest of a sentence; None when all are there."""
    if not (folder / "config.json").is_file():
        return "config.json is missing"
    names = model_weights(folder)
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
    names = [name for name in HEADS_FILES if (folder / name).is_file()][:1] or model_weights(folder)
    if not names:
        return "it holds no heads"
    missing = next((f"{name} is missing" for name in names if not (folder / name).is_file()), None)
    return missing or _find_cut(folder, names)


def is_cut_short(file: Path) -> bool:
    """Whether a file of weights ends too early, or is none."""
    return read_header(file) is None if file.suffix == ".safetensors" else _is_cut_archive(file)


def _find_cut(folder: Path, names: list[str]) -> str | None:
    for name in names:
        if is_cut_short(folder / name):
            return f"{name} is cut short" + (" or not safetensors" if name.endswith(".safetensors") else "")
    return None


@dataclass(frozen=True, slots=True)
class Header:
    """Of a .safetensors file: its tensors' shapes, and where each one's bytes begin and end in the file."""

    shapes: dict[str, tuple[int, ...]]
    ranges: dict[str, tuple[int, int]]


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of all tensors in a checkpoint's .safetensors, by name; none where the weights are other files, or
    their headers can't be read.
    """
    names = [name for name in model_weights(folder) if name.endswith(".safetensors")]
    headers = [read_header(folder / name) for name in names if (folder / name).is_file()]
    if None in headers or len(headers) < len(names):
        return {}
    return {name: shape for header in headers if header for name, shape in header.shapes.items()}


def read_header(file: Path) -> Header | None:
    """None if it is no .safetensors file, or ends before its tensors do."""
    # 8 bytes of header length, little-endian; the header, JSON; the tensors' bytes.
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_HEADER_LENGTH_BYTES), "little")
        if _HEADER_LENGTH_BYTES + length > size:
            return None
        header_bytes = stream.read(length)
    data = _HEADER_LENGTH_BYTES + length
    try:
        entries = {name: entry for name, entry in json.loads(header_bytes).items() if name != "__metadata__"}
        offsets = {name: entry["data_offsets"] for name, entry in entries.items()}
        ranges = {name: (data + start, data + end) for name, (start, end) in offsets.items()}
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in entries.items()}
        is_whole = bool(ranges) and all(data <= start <= end <= size for start, end in ranges.values())
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return None  # not what the format says
    return Header(shapes, ranges) if is_whole else None


def _is_cut_archive(file: Path) -> bool:
    # A ZIP archive's directory is at its end; a pickle of old says nothing of its length.
    with file.open("rb") as stream:
        return not (zipfile.is_zipfile(stream) or _starts_with(stream, _OLD_PICKLE))


def _starts_with(stream: Any, start: bytes) -> bool:
    stream.seek(0)
    return bool(stream.read(len(start)) == start)
