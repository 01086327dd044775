"""How weights lie in memory for the kernels: 16 bits as they are, 8 and 4 bits in words of several codes.

Inner positions come in blocks of 128, which take 32 or 16 words (int32) of an output row. Plane j of a block
is its run of 32 or 16 positions, from 32j or 16j on: there are four or eight. Two neighbouring words, i and
i + 1 with i even, together hold the codes at positions i and i + 1 of all planes, the first those of the
lower half of the planes. So a tile of words becomes tiles that are ready for the tensor cores, which take
values in pairs, and the input is read where it lies.

8 bits: a word's bytes 0 and 2 are one plane's two codes, bytes 1 and 3 the next one's.

4 bits: a byte is one plane's two codes, the lower four bits first: a table of 256 pairs decodes it at once.
The word is then rotated to the left by 7 bits: masked, it is its first byte times the 128 bytes that one
entry of that table takes (unpacking.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

GROUP = 64  # inner positions that share a scale
BLOCK_K = 128  # inner positions of a block
WORDS = BLOCK_K // 8  # of one output row in a block of 4-bit codes
BYTES_WORDS = BLOCK_K // 4  # and of 8-bit codes
ROTATION = 7  # bits


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """The weights of one product, several layers of the same input stacked by rows.

    data: (N, K) in 16 bits, or words (blocks, N, 32 or 16) int32, K filled up to whole blocks. scales: (N,)
    float32 with 8 bits, (blocks, N) int32 with 4 bits, of which each is a block's two scales in float16, the
    first in the lower half. table: (16,), what each 4-bit code stands for, in the dtype that is multiplied;
    lookup: its byte planes. bias: (N,) or None.
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
            scales = unpack_scales(self.scales).repeat_interleave(GROUP, 1)
            return (values * scales)[:, : self.num_inputs]
        if self.scales is not None:
            return unpack_bytes(self.data)[:, : self.num_inputs] * self.scales[:, None]
        return self.data.float()


def pack_float(weights: Sequence[torch.Tensor], bias: torch.Tensor | None = None) -> PackedWeight:
    """(N_i, K) in 16 bits each -> one weight of ΣN_i rows."""
    data = torch.cat(list(weights)) if len(weights) > 1 else weights[0]
    return PackedWeight(data, data.shape[0], data.shape[1], bias=bias)


def pack_int8(
    weights: Sequence[torch.Tensor], row_scales: Sequence[torch.Tensor], bias: torch.Tensor | None = None
) -> PackedWeight:
    """int8 (N_i, K) each with float32 (N_i,) scales -> one weight of ΣN_i rows."""
    codes = torch.cat(list(weights))
    num_outputs, num_inputs = codes.shape
    data = pack_bytes(torch.nn.functional.pad(codes, (0, -num_inputs % BLOCK_K)))
    return PackedWeight(data, num_outputs, num_inputs, torch.cat(list(row_scales)).float(), bias=bias)


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
        pack_scales(scales),
        table.to(dtype),
        byte_planes(table.to(dtype)),
        bias,
    )


def pack_bytes(codes: torch.Tensor) -> torch.Tensor:
    """(N, K) int8, K a multiple of 128 -> (K / 128, N, 32) int32."""
    num_outputs, num_inputs = codes.shape
    blocks = num_inputs // BLOCK_K
    # N, block, which word of two, plane, word pair, which position of two
    parts = codes.view(num_outputs, blocks, 2, 2, BYTES_WORDS // 2, 2)
    by_word = parts.permute(1, 0, 4, 2, 5, 3).reshape(blocks, num_outputs, BLOCK_K)
    return by_word.view(torch.int32)


def unpack_bytes(packed: torch.Tensor) -> torch.Tensor:
    """The inverse of pack_bytes."""
    blocks, num_outputs, _ = packed.shape
    parts = packed.view(torch.int8).view(blocks, num_outputs, BYTES_WORDS // 2, 2, 2, 2)
    return parts.permute(1, 0, 3, 5, 2, 4).reshape(num_outputs, -1)


def pack_codes(codes: torch.Tensor) -> torch.Tensor:
    """(N, K) uint8 below 16, K a multiple of 128 -> (K / 128, N, 16) int32."""
    num_outputs, num_inputs = codes.shape
    blocks = num_inputs // BLOCK_K
    # N, block, which word of two, plane, word pair, which position of two
    parts = codes.view(num_outputs, blocks, 2, 4, WORDS // 2, 2)
    pairs = parts[..., 0] | parts[..., 1] << 4
    planes = pairs.permute(3, 1, 0, 4, 2).reshape(4, blocks, num_outputs, WORDS)
    packed = planes[3].int() >> 32 - 24 - ROTATION | planes[3].int() << 24 + ROTATION
    for plane, values in enumerate(planes[:3]):
        packed |= values.int() << 8 * plane + ROTATION
    return packed


def unpack_codes(packed: torch.Tensor) -> torch.Tensor:
    """The inverse of pack_codes: (N, K) uint8."""
    blocks, num_outputs, _ = packed.shape
    plain = packed >> ROTATION & (1 << 32 - ROTATION) - 1 | packed << 32 - ROTATION
    by_code = [plain >> shift & 15 for shift in range(0, 32, 4)]
    parts = torch.stack(by_code).view(4, 2, blocks, num_outputs, WORDS // 2, 2)
    return parts.permute(3, 2, 5, 0, 4, 1).reshape(num_outputs, -1).to(torch.uint8)


def pack_scales(scales: torch.Tensor) -> torch.Tensor:
    """(N, K / 64) float32 -> (K / 128, N) int32, two of float16 each: no asynchronous copy takes less."""
    return scales.half().contiguous().view(torch.int32).T.contiguous()


def unpack_scales(packed: torch.Tensor) -> torch.Tensor:
    """The inverse of pack_scales, but for what rounding has taken."""
    return packed.T.clone(memory_format=torch.contiguous_format).view(torch.float16).float()


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
