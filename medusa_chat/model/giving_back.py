"""What torch has kept of a GPU's memory for later, given back."""

from __future__ import annotations

import torch


def give_back_unused() -> None:
    """To the driver: others may use it, and it would count as taken."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        # A step may be under way whose graph is gone already. The allocator waits for the stream on which a
        # segment was taken, and graphs run on another one: they would read memory that is no longer there.
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
