"""NVIDIA's driver, made up: what the package pynvml would be with it."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace


class NVMLError(Exception): ...


class NVMLErrorNotSupported(NVMLError): ...


def fake_nvml(**functions: object) -> ModuleType:
    """A module that tells of cards by their number and of those whose UUID begins as one does. functions: in
    place of these, or besides. num_open: initialised so many times and not shut down.
    """
    module = ModuleType("pynvml")

    def open_or_close(change: int) -> None:
        module.__dict__["num_open"] += change

    def by_uuid(uuid: str) -> str:
        if not uuid.startswith("GPU-"):
            raise NVMLError("Not Found")
        return f"card {uuid}"

    module.__dict__.update(
        NVMLError=NVMLError,
        NVMLError_NotSupported=NVMLErrorNotSupported,
        num_open=0,
        nvmlInit=lambda: open_or_close(1),
        nvmlShutdown=lambda: open_or_close(-1),
        nvmlDeviceGetHandleByIndex=lambda index: f"card {index}",
        nvmlDeviceGetHandleByUUID=by_uuid,
        nvmlDeviceGetName=lambda handle: handle,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=24_000, free=20_000),
    )
    module.__dict__.update(functions)
    return module
