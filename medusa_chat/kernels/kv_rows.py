"""Rows of the KV cache: as they were computed, or in 8 bits with a scale each.

In 8 bits a row (of one layer, keys or values, head and token) is held as the multiples of its scale, 1/127 of
its largest value. That depends on the row alone, and whoever reads it, the forward that wrote it included,
reads what is held: so here too plain decoding, prefill and trees give the same bits.

A row takes d + 4 bytes: 53% of 16 bits for heads of 64, 52% for those of 128. A scale in bfloat16 would make
that 52% and 51%, with one more rounding to think of.

What it changes stands in bench/agreement.py. Nearly all of it comes from the keys. In float32, where nothing
else rounds, six replies of the default model are 0.00095 nats a token apart, by keys alone 0.00089; with a
scale for each 32 values 0.00067; with rows turned by a Hadamard matrix before they are rounded, which spreads
a few large values over the whole row, 0.00022. That needs queries turned alike in every kernel: not built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medusa_chat.records import KVPrecision

LARGEST = 127  # multiple of a scale
LEAST = 1e-30  # largest value of a row that is taken for one, so that no scale is 0


@dataclass(frozen=True, slots=True, eq=False)
class KVRows:
    """numbers (…, d): in the dtype that rows are computed in, or int8; then scales (…, 1) float32."""

    numbers: torch.Tensor
    dtype: torch.dtype
    scales: torch.Tensor | None = None

    @staticmethod
    def empty(
        shape: Sequence[int], dtype: torch.dtype, device: torch.device, precision: KVPrecision
    ) -> KVRows:
        """Room for rows of this shape (…, d), computed in this dtype."""
        if precision == "full":
            return KVRows(torch.empty(*shape, dtype=dtype, device=device), dtype)
        numbers = torch.empty(*shape, dtype=torch.int8, device=device)
        return KVRows(numbers, dtype, torch.empty(*shape[:-1], 1, dtype=torch.float32, device=device))

    @property
    def shape(self) -> torch.Size:
        return self.numbers.shape

    @property
    def device(self) -> torch.device:
        return self.numbers.device

    @property
    def row_stride(self) -> int:
        """Rows from one head's first to the next one's: in a view more than there are."""
        return self.numbers.stride(-3) // self.numbers.shape[-1]

    @property
    def parts(self) -> list[torch.Tensor]:
        """What is in memory: tensors alike in all dimensions but the last."""
        return [self.numbers] if self.scales is None else [self.numbers, self.scales]

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def __getitem__(self, index: Any) -> KVRows:
        """A view, by an index that leaves the last dimension whole."""
        return KVRows(self.numbers[index], self.dtype, None if self.scales is None else self.scales[index])

    def cpu(self) -> KVRows:
        """A copy in the host's memory."""
        return KVRows(self.numbers.cpu(), self.dtype, None if self.scales is None else self.scales.cpu())

    def copy_(self, other: KVRows) -> None:
        """Takes over rows that are held alike."""
        for part, theirs in zip(self.parts, other.parts, strict=True):
            part.copy_(theirs)

    def write(self, rows: torch.Tensor) -> None:
        """Rows as computed, of the shape of these."""
        if self.scales is None:
            self.numbers.copy_(rows)
            return
        rows = rows.float()
        self.scales.copy_(rows.abs().amax(-1, keepdim=True).clamp_min_(LEAST).div_(LARGEST))
        self.numbers.copy_(rows.div(self.scales).add_(0.5).floor_())

    def read(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """(…, d) in the dtype of computing or another; in full precision and that dtype, a view."""
        dtype = dtype or self.dtype
        if self.scales is None:
            return self.numbers.to(dtype)
        return self.numbers.float().mul_(self.scales).to(dtype)
