"""The consumer cards this is for: what a kernel could do on one that isn't here, from its counts alone."""

from __future__ import annotations

from dataclasses import dataclass

_REGISTERS_PER_PARTITION, _PARTITIONS = 16384, 4  # of a multiprocessor, from compute capability 8.0 on
_REGISTER_UNIT = 256  # of a warp
_RESERVED_SHARED_BYTES = 1024  # of a block
_MAX_WARPS = 48  # of a multiprocessor with compute capability 8.6 and 8.9


@dataclass(frozen=True, slots=True)
class Card:
    """bandwidth in bytes a second; flops of 16-bit products added up in float32, dense. The rest is of one
    multiprocessor.
    """

    name: str
    capability: int
    bandwidth: float
    flops: float
    max_blocks: int
    shared_bytes: int = 100 * 1024

    def roofline_seconds(self, num_bytes: int, num_operations: int) -> float:
        """The least that moving the bytes and multiplying can take, whichever is more."""
        return max(num_bytes / self.bandwidth, num_operations / self.flops)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a block of a compiled kernel takes. registers: of a thread. spilled_bytes: of a thread."""

    registers: int
    shared_bytes: int
    num_warps: int
    spilled_bytes: int = 0

    def occupancy(self, card: Card) -> float:
        """Share of the card's warps that can be resident; 0 if not even one block fits."""
        registers_of_warp = -(-self.registers * 32 // _REGISTER_UNIT) * _REGISTER_UNIT
        by_registers = _REGISTERS_PER_PARTITION // registers_of_warp * _PARTITIONS // self.num_warps
        by_shared = card.shared_bytes // (self.shared_bytes + _RESERVED_SHARED_BYTES)
        blocks = min(card.max_blocks, _MAX_WARPS // self.num_warps, by_registers, by_shared)
        return blocks * self.num_warps / _MAX_WARPS


CARDS = (
    Card("RTX 3090", 86, 936e9, 71e12, max_blocks=16),
    Card("RTX 4090", 89, 1008e9, 165e12, max_blocks=24),
)
