"""The memory of a model's device: what is free, and what a loaded model has taken."""

from __future__ import annotations

import psutil
import torch

from medusa_chat.machine import Memory, gpu_bytes_of_this_process
from medusa_chat.memory_plan import STARTED
from medusa_chat.model.base import BaseModel
from medusa_chat.model.cache import KVCache
from medusa_chat.model.giving_back import give_back_unused
from medusa_chat.model.heads import MedusaHeads


def free_bytes(device: torch.device) -> int:
    """What torch could still take there."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    give_back_unused()
    return int(torch.cuda.mem_get_info(device)[0])


def memory_of(device: torch.device, dtype: torch.dtype) -> Memory:
    """For a model that is not loaded yet, as machine.find_memory would tell it before this process began."""
    free = free_bytes(device) + STARTED[device.type]
    if device.type != "cuda":
        return Memory("cpu", "this machine", int(psutil.virtual_memory().total), free, dtype.itemsize)
    name, total = torch.cuda.get_device_name(device), int(torch.cuda.mem_get_info(device)[1])
    return Memory("cuda", name, total, free, dtype.itemsize)


def parts_taken(base: BaseModel, heads: MedusaHeads | None, cache: KVCache) -> dict[str, int]:
    """Bytes, by the names that a MemoryPlan has for them."""
    return {
        "weights": base.num_bytes,
        "heads": 0 if heads is None else heads.num_bytes,
        "cache": cache.num_bytes,
    }


def bytes_of_this_process(device: torch.device) -> int | None:
    """All it has taken of the device's memory; None where nobody tells."""
    if device.type == "cuda":
        return gpu_bytes_of_this_process(torch.cuda.get_device_properties(device).uuid)
    told = psutil.Process().memory_info()
    return int(
        told.rss - getattr(told, "shared", 0)
    )  # libraries and mapped checkpoints are files, not memory
