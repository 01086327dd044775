"""Pickles of tensors, opened so that nothing in them runs, nor keeps us waiting.

torch's weights_only refuses all but tensors, but follows what a pickle says byte by byte, however much there
is of it: 700 MB packed into 700 kB took four seconds, and as much memory, to be refused.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

# Of a list of tensors, apart from their values: each takes some 150 bytes, read in some 60 pieces.
_MAX_BYTES = 2**20
_MAX_READS = 150_000
_TOO_LONG = "its list of tensors is far too long"


def load_pickle(path: Path, **options: Any) -> Any:
    """What a .pt or .bin file holds. options: as for torch.load.

    Raises what torch.load does, and ValueError for a longer pickle than any list of tensors.
    """
    if not is_archive(path):
        with _BriefReader(io.FileIO(path)) as stream:
            return torch.load(stream, weights_only=True, **options)
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith("data.pkl") and entry.file_size > _MAX_BYTES:
                raise ValueError(_TOO_LONG)
    return torch.load(path, weights_only=True, **options)


def is_archive(path: Path) -> bool:
    """Whether it is a zip archive, as torch writes since 2020."""
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


class _BriefReader(io.BufferedReader):
    """Reads a pickle of old, which says nothing of its length, piece by piece, but not for ever. The tensors'
    values, which come last, torch reads past it.
    """

    _reads_left = _MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._count()
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        self._count()
        return super().readline(size)

    def _count(self) -> None:
        self._reads_left -= 1
        if self._reads_left < 0:
            raise ValueError(_TOO_LONG)
