"""The processes that train side by side, one for each GPU; most often this one alone.

All do the same steps in the same order: each works out the gradients of its share of a batch, their sum is
everybody's, and only the first one writes what isn't shared out and speaks to the user.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch

from medusa_chat.records import Device

# What the first one does alone takes a while.
_PATIENCE = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Workers:
    """index: which of the `count` processes this is."""

    index: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one speaks for all."""
        return self.index == 0

    def share(self, rows: torch.Tensor) -> torch.Tensor:
        """The part of (B,) that is this process's."""
        return rows[self.index :: self.count]

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Puts in place of each tensor the sum of those that all processes hand in."""
        if self.count > 1:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


ALONE = Workers()


def join_workers(device: Device) -> Workers:
    """What training/launching.py, `torchrun` or `accelerate launch` has started this process as. Its own GPU
    is the current one from here on.
    """
    if "LOCAL_RANK" not in os.environ:
        return ALONE
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu", timeout=_PATIENCE)
    return Workers(state.process_index, state.num_processes)
