"""Memory of a GPU for what stays, apart from what goes again while a model is laid out.

torch's allocator gives back pages that are all free. With weights in the places that larger ones have left,
many are not: of a 7B in 4 bits half a gigabyte stayed taken.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


class LastingMemory:
    """Of one device; on others than a GPU it is memory like any other."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool = torch.cuda.MemPool() if device.type == "cuda" else None

    def taken(self) -> AbstractContextManager[None]:
        """What is allocated within is what stays."""
        # By index, or None: it refuses a device that says "cuda" and leaves the card open.
        return nullcontext() if self._pool is None else torch.cuda.use_mem_pool(self._pool, self.device.index)
