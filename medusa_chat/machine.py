"""What memory this machine has for a model, told without torch: the app asks as well."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medusa_chat.nvml import Card
from medusa_chat.records import Device, DType

_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")
_SECONDS_TO_ANSWER = 5.0
_MIB = 2**20
_NATIVE_BFLOAT16 = ("avx512_bf16", "amx_tile")


@dataclass(frozen=True, slots=True)
class Memory:
    """total, free: bytes. number_bytes: of a number that is not quantised, as the engine would hold it."""

    device: Literal["cuda", "cpu"]
    name: str
    total: int
    free: int
    number_bytes: int


def find_memory(device: Device = "auto", dtype: DType = "auto") -> Memory:
    """Of the device that the engine would take. A driver that doesn't answer is passed over."""
    gpu = None if device == "cpu" else _find_gpu()
    if gpu is not None:
        name, total, free = gpu
        return Memory("cuda", name, total, free, 4 if dtype == "float32" else 2)
    import psutil

    host = psutil.virtual_memory()
    is_half = _computes_in_bfloat16() if dtype == "auto" else dtype != "float32"
    return Memory("cpu", "this machine", host.total, host.available, 2 if is_half else 4)


def _find_gpu() -> tuple[str, int, int] | None:
    """Name, total and free bytes of the first GPU that CUDA programs may use; None where there is none."""
    which = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    if which in ("", "-1") or not _torch_has_cuda():
        return None
    return _ask_nvml(which) or _ask_nvidia_smi(which)


def _torch_has_cuda() -> bool:
    """Without importing it. One that is built for CPUs alone leaves a GPU unused."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r"^cuda\b.*= *['\"]", text, re.MULTILINE) is not None


def _ask_nvml(which: str) -> tuple[str, int, int] | None:
    try:
        with closing(Card(which)) as card:
            return card.name(), *card.memory()
    except OSError:
        return None


def gpu_bytes_of_this_process(uuid: object) -> int | None:
    """All that it has taken of a GPU, as nvidia-smi tells; None where the driver doesn't. uuid: as torch has
    it, without the word GPU before it.
    """
    try:
        with closing(Card(f"GPU-{uuid}")) as card:
            return card.bytes_of_this_process()
    except OSError:
        return None


def _ask_nvidia_smi(which: str) -> tuple[str, int, int] | None:
    if shutil.which(_NVIDIA_SMI[0]) is None:
        return None
    try:
        answer = subprocess.run(
            [*_NVIDIA_SMI, f"--id={which}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS_TO_ANSWER,
            check=False,
        )
        name, total, free = answer.stdout.partition("\n")[0].rsplit(",", 2)
        return name.strip(), int(total) * _MIB, int(free) * _MIB
    except (OSError, subprocess.TimeoutExpired, ValueError):  # "[N/A]" where memory is the host's
        return None


def _computes_in_bfloat16() -> bool:
    """What the engine asks torch: whether the processor has instructions for it."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return any(re.search(rf"\b{flag}\b", flags) for flag in _NATIVE_BFLOAT16)
