"""`medusa-chat doctor`: what a bug report needs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from medusa_chat.commands.options import JsonOption
from medusa_chat.quantities import size

_PACKAGES = (
    "medusa-chat", "torch", "transformers", "huggingface_hub", "bitsandbytes", "numba", "textual", "triton",
)  # fmt: skip
Section = dict[str, Any]


def doctor(as_json: JsonOption = False) -> None:
    """Report versions, devices, kernels and where files live."""
    report = examine()
    if as_json:
        print(json.dumps(report, indent=2))
        return
    for title, section in report.items():
        print(f"{title.replace('_', ' ')}:{'' if section else ' none'}")
        for key, value in section.items():
            name = key.removesuffix("_bytes").replace("_", " ")
            print(f"  {name:<18} {_words(value)}")


def examine() -> dict[str, Section]:
    """All of it, by section. Memory in bytes. Never raises for a broken torch: that is worth a report too."""
    return {
        "versions": _versions(),
        "machine": _machine(),
        "engine": _engine(),
        "files": _files(),
        "default_model": _default_model(),
        "last_load": _last_load(),
    }


def _versions() -> Section:
    versions: Section = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _machine() -> Section:
    import psutil

    memory = psutil.virtual_memory()
    return {
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "nvidia_driver": _nvidia_driver(),
    }


def _nvidia_driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.partition("\n")[0].strip() or None


def _engine() -> Section:
    try:
        import torch

        from medusa_chat.model.fastest import kernels_for
        from medusa_chat.model.loading import device_name, pick_device, pick_dtype
    except Exception as error:  # a broken install of torch fails in many ways
        return {"problem": f"The engine can't be loaded: {type(error).__name__}: {error}"}
    device = pick_device("auto")
    section: Section = {
        "device": device.type,
        "device_name": device_name(device),
        "dtype": str(pick_dtype("auto", device)).removeprefix("torch."),
        "kernels": kernels_for(device),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_bfloat16": pick_dtype("auto", torch.device("cpu")) == torch.bfloat16,
        "cuda_runtime": torch.version.cuda,
    }
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        section |= {"gpu_memory_bytes": total, "gpu_memory_free_bytes": free}
    return section


def _files() -> Section:
    from medusa_chat import paths
    from medusa_chat.checkpoints import hub_cache, quantised

    folders = {
        "config": paths.config_dir(),
        "data": paths.data_dir(),
        "cache": paths.cache_dir(),
        "hub": hub_cache.cache_dir(),
    }
    places = {
        name: {"folder": str(folder), "writable": _is_writable(folder)} for name, folder in folders.items()
    }
    return {**places, "quantised_copies_bytes": quantised.bytes_kept()}


def _is_writable(folder: Path) -> bool:
    """Whether files can be made in it, or it can be made."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _default_model() -> Section:
    from medusa_chat import checkpoints
    from medusa_chat.errors import MedusaError
    from medusa_chat.registry import resolve
    from medusa_chat.settings import load_settings

    try:
        settings = load_settings()
        spec = resolve(settings.model)
    except MedusaError as error:
        return {"problem": str(error)}
    heads = spec.heads_place
    return {
        "name": spec.name,
        "here": checkpoints.is_local(spec),
        "sound": checkpoints.is_sound(spec),
        "heads_here": heads is not None and checkpoints.heads_are_here(heads),
        "kv_cache": settings.kv_cache,
        "lm_head": settings.lm_head,
    }


def _last_load() -> Section:
    """What it took in time, what it was to take of the memory, and took as far as that can be told."""
    from medusa_chat.last_load import read_last_load

    load = read_last_load()
    if load is None:
        return {}
    section: Section = {
        "model": load.model,
        "quantisation": load.quantization,
        "device": load.device,
        "dtype": load.dtype,
        "date": load.date,
        "context_length": load.context_length,
        **{f"{part}_seconds": seconds for part, seconds in load.seconds.items()},
    }
    parts = dict.fromkeys((*load.planned, *load.taken))
    return section | {
        part: {"taken_bytes": load.taken.get(part), "planned_bytes": load.planned.get(part)} for part in parts
    }


def _words(value: Any) -> str:
    match value:
        case {"taken_bytes": taken, "planned_bytes": planned}:
            return f"{size(planned)} planned" + ("" if taken is None else f", {size(taken)} taken")
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case {"folder": folder, "writable": writable}:
            return f"{folder} ({'writable' if writable else 'not writable'})"
        case float():
            return f"{value:.1f}"
        case int() if value >= 10**6:
            return f"{value / 2**30:.1f} GiB"
        case _:
            return str(value)
