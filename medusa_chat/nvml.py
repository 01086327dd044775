"""What NVML, the library of NVIDIA's driver, tells of a graphics card."""

from __future__ import annotations

import os
from typing import Any


class NotSupported(OSError):
    """By this card."""


class Card:
    """To be closed: while one is open, a laptop's card may not sleep."""

    def __init__(self, which: str) -> None:
        """which: the driver's number for it, or its UUID with the GPU- before it. Cards have other numbers
        for the driver than under CUDA_VISIBLE_DEVICES.

        Raises OSError, as all else here, if the driver is not there, does not know the card or won't tell.
        """
        by_index, by_uuid = "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetHandleByUUID"
        _ask("nvmlInit")
        try:
            self._handle = _ask(by_index, int(which)) if which.isdigit() else _ask(by_uuid, which)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        _ask("nvmlShutdown")

    def name(self) -> str:
        return str(_ask("nvmlDeviceGetName", self._handle))

    def memory(self) -> tuple[int, int]:
        """Total and free bytes."""
        told = _ask("nvmlDeviceGetMemoryInfo", self._handle)
        return int(told.total), int(told.free)

    def bytes_of_this_process(self) -> int | None:
        """None where nobody tells: in a container the numbers of processes may be the host's."""
        processes = _ask("nvmlDeviceGetComputeRunningProcesses", self._handle)
        return next((process.usedGpuMemory for process in processes if process.pid == os.getpid()), None)

    def joules(self) -> float:
        """Since some moment. Cards before Volta don't count them."""
        return float(_ask("nvmlDeviceGetTotalEnergyConsumption", self._handle)) / 1e3

    def watts(self) -> float:
        return float(_ask("nvmlDeviceGetPowerUsage", self._handle)) / 1e3


def _ask(function: str, *arguments: Any) -> Any:
    import pynvml

    try:
        return getattr(pynvml, function)(*arguments)
    except pynvml.NVMLError_NotSupported as error:
        raise NotSupported(f"NVML: {error}") from None
    except pynvml.NVMLError as error:
        raise OSError(f"NVML: {error}") from None
