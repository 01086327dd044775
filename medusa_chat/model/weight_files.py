"""The tensors in a checkpoint's files, told of by their headers and read one by one. Nothing in a file runs.

.pt and .bin are pickles: torch opens them with weights_only, which refuses all but tensors.

Each tensor is mapped by itself, for as long as somebody holds it. Where a whole file is mapped, as torch and
safetensors do, all that was ever read of it stays in the process's memory until the last tensor is dropped:
loading a model through such a map takes as much of the host as its files do.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import pickle
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors
import torch

from medusa_chat.checkpoints.soundness import read_header
from medusa_chat.checkpoints.weight_names import INDEX, MODEL_FILES, shards_in
from medusa_chat.errors import CheckpointError
from medusa_chat.model.pickles import is_archive, load_pickle

_PICKLES = (".pt", ".bin", ".pth")
_LARGE = 2**20  # bytes of a tensor that is worth looking after
_LFS_POINTER = b"version https://git-lfs"
_FETCH_AGAIN = "fetch it again"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


class WeightFile(Protocol):
    """One file. names: of its tensors."""

    path: Path

    @property
    def names(self) -> Iterable[str]: ...

    def outline(self, name: str) -> torch.Tensor:
        """On the meta device: shape and dtype without values."""
        ...

    def read(self, name: str) -> torch.Tensor:
        """On the CPU, mapped from the file; another map each time."""
        ...


@dataclass(frozen=True, slots=True)
class Unread:
    """A tensor that is read when it is asked for by [...]; transformers takes such for tensors, as it does
    the slices of safetensors.
    """

    file: WeightFile
    name: str

    def __getitem__(self, index: Any) -> torch.Tensor:
        tensor = self.file.read(self.name)
        if tensor.nbytes >= _LARGE:
            _give_freed_memory_back()
        return tensor[index]

    def is_floating_point(self) -> bool:
        return self.file.outline(self.name).is_floating_point()


def unread_model(folder: Path) -> Mapping[str, Unread]:
    """The tensors of the model in a folder, by name. Raises CheckpointError if it has none or is damaged."""
    files = [open_weight_file(path) for path in find_weight_files(folder, MODEL_FILES)]
    if not files:
        raise CheckpointError(f"{folder} holds no weights: it has none of {', '.join(MODEL_FILES)}.")
    return {name: Unread(file, name) for file in files for name in file.names}


def open_weight_file(path: Path) -> WeightFile:
    """Raises CheckpointError naming the file if it is damaged, of another kind, or holds code."""
    _check_is_file(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_LFS_POINTER))
    except OSError as error:
        raise CheckpointError(f"{path} can't be read ({error.strerror}); {_FETCH_AGAIN}.") from None
    if start == _LFS_POINTER:
        raise CheckpointError(f"{path} only points to the weights; fetch them with `git lfs pull`.")
    if path.suffix == ".safetensors":
        return _SafetensorsFile(path)
    if path.suffix in _PICKLES:
        return _TorchFile(path)
    raise CheckpointError(f"{path} is no weight file: such end in .safetensors, {', '.join(_PICKLES)}.")


def find_weight_files(folder: Path, names: Iterable[str]) -> list[Path]:
    """The first of these files that the folder has, or the shards that it lists if it is an index; [] if it
    has none. Raises CheckpointError for what isn't a file, and for an index that isn't sound.
    """
    found = next((folder / name for name in names if os.path.lexists(folder / name)), None)
    if found is None:
        return []
    _check_is_file(found)
    return _shards(found) if found.name.endswith(INDEX) else [found]


def _check_is_file(path: Path) -> None:
    if os.path.lexists(path) and not path.is_file():
        what = "a link to nowhere" if path.is_symlink() and not path.is_dir() else "no file"
        raise CheckpointError(f"{path} can't be read: it is {what}; {_FETCH_AGAIN}.")


def outline_base(files: Iterable[Path]) -> dict[str, torch.Tensor]:
    """All tensors of these files, on the meta device, but for those of Medusa heads beside them."""
    return {
        name: file.outline(name)
        for file in map(open_weight_file, files)
        for name in file.names
        if not name.startswith("medusa_head")
    }


def read_config(file: Path) -> dict[str, Any]:
    """What a config.json says, {} without one. Raises CheckpointError."""
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file} can't be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); {_FETCH_AGAIN}.") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} must hold a JSON object; {_FETCH_AGAIN}.")
    return config


def _shards(index: Path) -> list[Path]:
    read_config(index)  # says what is wrong with one that is no object
    names = shards_in(index)
    if not names:
        raise CheckpointError(f"{index} doesn't say which files hold the weights; {_FETCH_AGAIN}.")
    shards = [index.parent / name for name in names]
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(f"{missing[0]} is missing, though {index.name} lists it; {_FETCH_AGAIN}.")
    return shards


class _SafetensorsFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._opened: Any = safetensors.safe_open(path, framework="pt")
        except (safetensors.SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); {_FETCH_AGAIN}.") from None
        header = read_header(path)
        self._ranges = {} if header is None else header.ranges

    @property
    def names(self) -> Iterable[str]:
        return list(self._opened.keys())

    def outline(self, name: str) -> torch.Tensor:
        header = self._opened.get_slice(name)
        dtype = _DTYPES.get(header.get_dtype())
        if dtype is None:
            raise CheckpointError(
                f"{self.path} holds {name} as {header.get_dtype()}, which is not read here."
            )
        return torch.empty(header.get_shape(), dtype=dtype, device="meta")

    def read(self, name: str) -> torch.Tensor:
        outline = self.outline(name)
        return _mapped(self.path, *self._ranges[name]).view(outline.dtype).view(outline.shape)


class _TorchFile:
    """A pickle of tensors. Those of torch before 2020 are no archives: they are read as they are opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = _unpickled(path, "meta" if is_archive(path) else "cpu")
        entries = content.items() if isinstance(content, dict) else ()
        self._tensors: dict[str, torch.Tensor] = {
            name: value.detach() for name, value in entries if _is_plain_tensor(name, value)
        }
        # A pickle may claim any shape over a few bytes.
        size = path.stat().st_size
        lying = next((name for name, value in self._tensors.items() if not _lies_in(value, size)), None)
        if lying is not None:
            raise CheckpointError(f"{path} is damaged ({lying} is larger than the file); {_FETCH_AGAIN}.")

    @property
    def names(self) -> Iterable[str]:
        return self._tensors

    def outline(self, name: str) -> torch.Tensor:
        found = self._tensors[name]
        return torch.empty(found.shape, dtype=found.dtype, device="meta")

    def read(self, name: str) -> torch.Tensor:
        found = self._tensors[name]
        start = _place(found)
        if start is None:
            return found
        values = _mapped(self.path, start, start + found.untyped_storage().nbytes()).view(found.dtype)
        return values.as_strided(found.shape, found.stride(), found.storage_offset())


def _place(tensor: torch.Tensor) -> int | None:
    """Where in an archive the storage of a tensor on the meta device begins; None for one that is read."""
    return getattr(tensor.untyped_storage(), "_checkpoint_offset", None)  # it is documented all the same


def _lies_in(tensor: torch.Tensor, size: int) -> bool:
    return max(tensor.nbytes, (_place(tensor) or 0) + tensor.untyped_storage().nbytes()) <= size


def _mapped(path: Path, start: int, end: int) -> torch.Tensor:
    """These bytes of a file, uint8 (end - start,). Who writes to them changes no file."""
    if start == end:
        return torch.empty(0, dtype=torch.uint8)
    before = start % mmap.ALLOCATIONGRANULARITY
    with path.open("rb") as stream:
        pages = mmap.mmap(
            stream.fileno(), end - start + before, access=mmap.ACCESS_COPY, offset=start - before
        )
    return torch.frombuffer(pages, dtype=torch.uint8, offset=before)


def _unpickled(path: Path, device: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickles it warns programmers
            return load_pickle(path, map_location=device)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds something other than tensors, which could run code, so it was not opened; "
            "look for a .safetensors file of the same weights."
        ) from None
    except Exception as error:  # a damaged pickle fails in every way there is
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise CheckpointError(f"{path} is damaged ({reason}); {_FETCH_AGAIN}.") from None


def _give_freed_memory_back() -> None:
    """What quantising the tensor before took for a moment, which glibc would keep: it lies between the blocks
    that stay. Without, loading 1.5 GB in 4 bits on a CPU held 1.4 GB more than the model when it was done.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
        if trim is not None:
            trim(0)


def _is_plain_tensor(name: Any, value: Any) -> bool:
    return (
        isinstance(name, str)
        and isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and (value.device.type == "cpu" or _place(value) is not None)
        and not value.is_quantized
    )
