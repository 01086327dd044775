"""The tensors in a checkpoint's files, told of by their headers and read one by one. Nothing in a file runs.

.pt and .bin are pickles: torch opens them with weights_only, which refuses all but tensors, and maps them, so
that what nobody asks for is never read.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import safetensors
import torch

from medusa_chat.errors import CheckpointError

# Of a whole model, in the order in which transformers looks for them.
MODEL_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_PICKLES = (".pt", ".bin", ".pth")
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
        """On the CPU, perhaps mapped from the file."""
        ...


def open_weight_file(path: Path) -> WeightFile:
    """Raises CheckpointError naming the file if it is damaged, of another kind, or holds code."""
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
    has none. Raises CheckpointError for an index that isn't sound.
    """
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        return []
    return _shards(found) if found.name.endswith(".index.json") else [found]


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
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); {_FETCH_AGAIN}.") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} must hold a JSON object; {_FETCH_AGAIN}.")
    return config


def _shards(index: Path) -> list[Path]:
    shard_of = read_config(index).get("weight_map")
    names = set(shard_of.values()) if isinstance(shard_of, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise CheckpointError(f"{index} doesn't say which files hold the weights; {_FETCH_AGAIN}.")
    shards = [index.parent / name for name in sorted(names)]
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
        self.outline(name)  # of a kind that is read here
        return self._opened.get_tensor(name)  # type: ignore[no-any-return]


class _TorchFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        content = _unpickled(path)
        entries = content.items() if isinstance(content, dict) else ()
        self._tensors: dict[str, torch.Tensor] = {
            name: value.detach() for name, value in entries if _is_plain_tensor(name, value)
        }
        # A pickle may claim any shape over a few bytes.
        size = path.stat().st_size
        lying = next((name for name, value in self._tensors.items() if value.nbytes > size), None)
        if lying is not None:
            raise CheckpointError(f"{path} is damaged ({lying} is larger than the file); {_FETCH_AGAIN}.")

    @property
    def names(self) -> Iterable[str]:
        return self._tensors

    def outline(self, name: str) -> torch.Tensor:
        found = self._tensors[name]
        return torch.empty(found.shape, dtype=found.dtype, device="meta")

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickles it warns programmers
            # Only torch's zip files can be mapped, not those from before 2020.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds something other than tensors, which could run code, so it was not opened; "
            "look for a .safetensors file of the same weights."
        ) from None
    except Exception as error:  # a damaged pickle fails in every way there is
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise CheckpointError(f"{path} is damaged ({reason}); {_FETCH_AGAIN}.") from None


def _is_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _is_plain_tensor(name: Any, value: Any) -> bool:
    return (
        isinstance(name, str)
        and isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )
