"""The tensors of heads, found by name in one file or several and handed out checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from medusa_chat.errors import CheckpointError
from medusa_chat.model.heads import TOKEN_MAP
from medusa_chat.model.weight_files import WeightFile

# Before every name: in a whole model that holds its heads, in some of vLLM's files.
_PREFIX = re.compile(r"medusa_heads?\.")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class HeadTensors:
    """place: the file or folder that they are in. outline: hand out shapes without values, on the meta
    device, read from headers alone.
    """

    def __init__(self, place: Path, files: Sequence[WeightFile], *, outline: bool = False) -> None:
        self.place = place
        self.folder = place if place.is_dir() else place.parent
        self.used: dict[str, torch.Tensor] = {}  # of what was handed out, the outlines
        self._outline = outline
        self._found: dict[str, tuple[WeightFile, str]] = {}
        self.has_prefix = False
        for file in files:
            for name in file.names:
                bare = _PREFIX.sub("", name, count=1) if _PREFIX.match(name) else name
                self.has_prefix |= bare != name
                # In a whole model the heads' names are those with a prefix.
                if bare != name or bare not in self._found:
                    self._found[bare] = (file, name)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def matching(self, names: re.Pattern[str]) -> list[tuple[int, ...]]:
        """The numbers in all names of that form."""
        matches = filter(None, map(names.fullmatch, self._found))
        return [tuple(map(int, match.groups())) for match in matches]

    def file_of(self, name: str) -> Path:
        return self._found[name][0].path

    def one(self, name: str, *shape: int | None) -> torch.Tensor:
        """The tensor of that name and shape; None stands for any size."""
        return self.stack([name], *shape)[0]

    def stack(self, names: Sequence[str], *shape: int | None) -> torch.Tensor:
        """The tensors of these names, of one shape, one behind the other. Raises CheckpointError naming the
        file and the tensor that is missing, of another shape, of another kind, or not of finite numbers.
        """
        self._check_outlines(names, shape)
        if self._outline:
            return torch.stack([self._outlined(name) for name in names])
        return torch.stack([self._read(name) for name in names])

    def check_there(self, names: Iterable[str]) -> None:
        """Raises CheckpointError naming the first that is missing; asks for no more of them."""
        missing = next((name for name in names if name not in self), None)
        if missing is not None:
            raise CheckpointError(f"{self.place} lacks the tensor {missing}; fetch or train the heads again.")

    def vocabulary(self) -> torch.Tensor | None:
        """(V',) int64: the tokens that these heads guess among, if not all. Its values are always read."""
        if TOKEN_MAP not in self:
            return None
        file, name = self._found[TOKEN_MAP]
        self.used[TOKEN_MAP] = file.outline(name)
        ids = file.read(name)
        sound = ids.ndim == 1 and ids.numel() > 0 and not ids.is_floating_point()
        if not sound or int(ids.min()) < 0 or len(set(ids.tolist())) != len(ids):
            raise CheckpointError(f"{file.path} has a {TOKEN_MAP} that lists no token, or one twice.")
        return ids.long()

    def _read(self, name: str) -> torch.Tensor:
        file, full_name = self._found[name]
        tensor = file.read(full_name)
        # Least and largest, for no mask as large as the tensor is needed then.
        if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise CheckpointError(
                f"{file.path} holds values that are not numbers in {name}; fetch or train the heads again."
            )
        return tensor

    def _check_outlines(self, names: Sequence[str], shape: tuple[int | None, ...]) -> None:
        self.check_there(names)
        first = self._outlined(names[0]).shape
        for name in names:
            found = self.used[name] = self._outlined(name)
            if found.dtype not in _FLOATS:
                kind = str(found.dtype).removeprefix("torch.")
                raise CheckpointError(
                    f"{self.file_of(name)} holds {name} as {kind}, not as floating-point numbers; "
                    "fetch or train the heads again."
                )
            if found.shape != first:
                raise CheckpointError(
                    f"{self.file_of(name)} has heads of different shapes in {names[0]} and {name}; "
                    "fetch or train the heads again."
                )
        if len(first) != len(shape) or any(w not in (None, f) for w, f in zip(shape, first, strict=True)):
            raise CheckpointError(
                f"{self.file_of(names[0])} has a wrong shape in {names[0]}, {list(first)}; "
                "fetch or train the heads again."
            )

    def _outlined(self, name: str) -> torch.Tensor:
        file, full_name = self._found[name]
        return file.outline(full_name)
