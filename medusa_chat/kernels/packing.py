"""How weights lie in memory for the kernels: 16 and 8 bits as they are, 4 bits in words of eight planes.

A 4-bit word (int32) holds eight codes of one output row. Of each block of 128 inner positions, plane j is the
run of 16 from 16j on: a tile of words is decoded into eight tiles that are ready for the
tensor cores, and the input is read where it lies. Two neighbouring words, i and i + 1 with i even, together
hold the positions i and i + 1 of all planes: the first those of planes 0 to 3, the second those of 4 to 7,
each plane's two codes side by side, since tensor cores take values in pairs.

Within a word, code c has its low three bits at 4c and its high bit where one byte-permute instruction spreads
it into a mask: at 8c + 7 for the first four codes and at 8(c - 4) + 3 for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

GROUP = 64  # inner positions that share a scale
WORDS = 16  # of one output row in a block
BLOCK_K = 8 * WORDS  # inner positions of a block
_HIGH_BIT = (7, 15, 23, 31, 3, 11, 19, 27)


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """The weights of one product, several layers of the same input stacked by rows.

    data: (N, K) in 16 bits or int8, or words (K' / 128, N, 16) int32. scales: (N,) float32 with int8,
    (K' / 64, N) float32 with 4 bits, where K' is K filled up to whole blocks. table: (16,), what
    each 4-bit code stands for, in the dtype that is multiplied; lookup: its byte planes. bias: (N,) or None.
    """

    data: torch.Tensor
    num_outputs: int
    num_inputs: int
    scales: torch.Tensor | None = None
    table: torch.Tensor | None = None
    lookup: tuple[int, ...] = ()
    bias: torch.Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes read by one product."""
        return sum(t.nbytes for t in (self.data, self.scales, self.bias) if t is not None)

    def dequantized(self) -> torch.Tensor:
        """(N, K) float32: what the kernels multiply by."""
        if self.table is not None:
            assert self.scales is not None
            values = self.table.float()[unpack_codes(self.data).long()]  # (N, K')
            return (values * self.scales.T.repeat_interleave(GROUP, 1))[:, : self.num_inputs]
        values = self.data.float()
        return values if self.scales is None else values * self.scales[:, None]


def pack_float(weights: Sequence[torch.Tensor], bias: torch.Tensor | None = None) -> PackedWeight:
    """(N_i, K) in 16 bits each -> one weight of ΣN_i rows."""
    data = torch.cat(list(weights)) if len(weights) > 1 else weights[0]
    return PackedWeight(data, data.shape[0], data.shape[1], bias=bias)


def pack_int8(
    weights: Sequence[torch.Tensor], row_scales: Sequence[torch.Tensor], bias: torch.Tensor | None = None
) -> PackedWeight:
    """int8 (N_i, K) each with float32 (N_i,) scales -> one weight of ΣN_i rows."""
    data = torch.cat(list(weights))
    scales = torch.cat(list(row_scales)).float()
    return PackedWeight(data, data.shape[0], data.shape[1], scales=scales, bias=bias)


def pack_4bit(
    codes: torch.Tensor,
    scales: torch.Tensor,
    table: torch.Tensor,
    dtype: torch.dtype,
    bias: torch.Tensor | None = None,
) -> PackedWeight:
    """codes (N, K) uint8 below 16, scales (N, K / 64) float32, table (16,) float32; dtype: of the inputs."""
    num_outputs, num_inputs = codes.shape
    missing = -num_inputs % BLOCK_K
    if missing:
        zero = int(table.abs().argmin())
        codes = torch.nn.functional.pad(codes, (0, missing), value=zero)
        scales = torch.nn.functional.pad(scales, (0, missing // GROUP))
    return PackedWeight(
        pack_codes(codes),
        num_outputs,
        num_inputs,
        scales.T.contiguous(),
        table.to(dtype),
        byte_planes(table.to(dtype)),
        bias,
    )


def pack_codes(codes: torch.Tensor) -> torch.Tensor:
    """(N, K) uint8 below 16, K a multiple of 128 -> (K / 128, N, 16) int32."""
    num_outputs, num_inputs = codes.shape
    blocks = num_inputs // BLOCK_K
    # N, block, which word of two, plane, word pair, which position of two
    parts = codes.view(num_outputs, blocks, 2, 4, WORDS // 2, 2)
    by_code = parts.permute(3, 5, 1, 0, 4, 2).reshape(8, blocks, num_outputs, WORDS)
    packed = torch.zeros(by_code.shape[1:], dtype=torch.int32, device=codes.device)
    for position, code in enumerate(by_code):
        packed |= (code.int() & 7) << (4 * position)
        packed |= (code.int() >> 3) << _HIGH_BIT[position]
    return packed


def unpack_codes(packed: torch.Tensor) -> torch.Tensor:
    """The inverse of pack_codes: (N, K) uint8."""
    blocks, num_outputs, _ = packed.shape
    by_code = [(packed >> 4 * c) & 7 | ((packed >> _HIGH_BIT[c]) & 1) << 3 for c in range(8)]
    parts = torch.stack(by_code).view(4, 2, blocks, num_outputs, WORDS // 2, 2)
    return parts.permute(3, 2, 5, 0, 4, 1).reshape(num_outputs, -1).to(torch.uint8)


def byte_planes(table: torch.Tensor) -> tuple[int, ...]:
    """(16,) in 16 bits -> eight words: the values' low bytes, four a word, then their high bytes.

    Byte-permute instructions look codes up in these words without touching memory.
    """
    halves = table.cpu().view(torch.uint8).view(16, 2)  # little-endian: low byte first
    return tuple(int(word) & 0xFFFFFFFF for word in halves.T.contiguous().view(torch.int32).flatten())


def codes_of(weight: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A bitsandbytes 4-bit parameter -> codes (N, K) uint8, scales (N, K / 64) float32, table (16,) float32.

    Nested scales are resolved. Raises ValueError for what the kernel can't read: blocks that aren't whole
    multiples of 64 inner positions within one row.
    """
    state = weight.quant_state
    num_outputs, num_inputs = state.shape
    if state.blocksize % GROUP or num_inputs % state.blocksize:
        raise ValueError(f"blocks of {state.blocksize} in rows of {num_inputs}")
    packed = weight.data.flatten()
    codes = torch.stack([packed >> 4, packed & 15], dim=1).view(num_outputs, num_inputs)
    scales = state.absmax
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    scales = scales.float().view(num_outputs, num_inputs // state.blocksize)
    return codes, scales.repeat_interleave(state.blocksize // GROUP, 1), state.code.float()
