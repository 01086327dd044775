"""Linear layers of 1 to 64 rows over 16-bit, 8-bit and 4-bit weights, at about the price of one row.

A step that verifies a tree must cost what a step of one token costs, so weights are read once, decoded in
registers and multiplied by all rows on the tensor cores. A row's sum runs over K in the same order however
many rows there are: drafting then changes no bit of a reply.

Where there are few outputs, K is split over several programs. The result is left as partial sums (S, M, N)
for the kernel that reads them next to add up, in order: no launch and no atomics for the reduction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from triton import knobs

from medusa_chat.kernels.packing import BLOCK_K, GROUP, WORDS, PackedWeight

MAX_ROWS = 64  # of one program; more take several
INTERPRETED = knobs.runtime.interpret  # no inline assembly there
_GROUP = tl.constexpr(GROUP)
_WORDS = tl.constexpr(WORDS)


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a product is cut. splits and block_k fix the order of summation and belong to the weight; the
    rest may change with the number of rows and changes no bit.
    """

    splits: int
    block_n: int
    block_k: int = BLOCK_K
    num_warps: int = 4
    num_stages: int = 3


def default_tiling(weight: PackedWeight, num_processors: int) -> Tiling:
    """What was best, or within a tenth of it, for every shape of a 7B model on an H100: about three programs
    for each processor.
    """
    block_n = 64 if weight.table is None else 128
    num_tiles, num_blocks = triton.cdiv(weight.num_outputs, block_n), triton.cdiv(weight.num_inputs, BLOCK_K)
    splits = 1
    while splits < 8 and num_tiles * splits < 2.5 * num_processors and num_blocks >= 4 * splits:
        splits *= 2
    return Tiling(splits, block_n)


def linear_reference(x: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
    """x (M, K) -> (1, M, N) float32."""
    out = x.float() @ weight.dequantized().T
    return (out if weight.bias is None else out + weight.bias.float())[None]


def linear(x: torch.Tensor, weight: PackedWeight, tiling: Tiling) -> torch.Tensor:
    """x (M, K) in 16 bits -> (S, M, N) float32, whose sum over S is x W^T + bias."""
    return _launch(x, weight, tiling, weight.num_outputs)


def linear_each_reference(x: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
    """x (M, K), weight of M layers stacked, each of N outputs for a row of its own -> (1, M, N) float32."""
    all_outputs = linear_reference(x, weight)[0].view(len(x), len(x), -1)  # (M, M, N)
    return all_outputs.diagonal().T[None]


def linear_each(x: torch.Tensor, weight: PackedWeight, tiling: Tiling) -> torch.Tensor:
    """As linear_each_reference, but partial sums (S, M, N), in one launch. x may be one row, expanded."""
    return _launch(x, weight, tiling, weight.num_outputs // len(x), each=True)


def _launch(
    x: torch.Tensor, weight: PackedWeight, tiling: Tiling, num_outputs: int, *, each: bool = False
) -> torch.Tensor:
    """num_outputs: of a row."""
    num_rows = x.shape[0]
    out = torch.empty(tiling.splits, num_rows, num_outputs, dtype=torch.float32, device=x.device)
    block_m = 16 if each else min(MAX_ROWS, max(16, triton.next_power_of_2(num_rows)))
    num_blocks = triton.cdiv(weight.num_inputs, tiling.block_k)
    per_split = triton.cdiv(num_blocks, tiling.splits)
    num_tiles = triton.cdiv(num_outputs, tiling.block_n)
    grid = (num_tiles, tiling.splits, num_rows if each else triton.cdiv(num_rows, block_m))
    common = (
        out, weight.bias, num_rows, x.stride(0), num_outputs, weight.num_outputs, weight.num_inputs,
    )  # fmt: skip
    # Where no row and no inner position is missing nothing is masked.
    launch = {
        "PER_SPLIT": per_split, "EACH": each, "FULL": not each and num_rows % block_m == 0,
        "WHOLE": num_blocks * tiling.block_k == weight.num_inputs and num_blocks % tiling.splits == 0,
        "num_warps": tiling.num_warps, "num_stages": tiling.num_stages,
    }  # fmt: skip
    if weight.table is None:
        _rows_kernel[grid](
            x, weight.data, weight.scales, *common,
            BLOCK_M=block_m, BLOCK_N=tiling.block_n, BLOCK_K=tiling.block_k, **launch,
        )  # fmt: skip
    else:
        _planes_kernel[grid](
            x, weight.data, weight.scales, weight.table, *common, num_blocks,
            BLOCK_M=block_m, BLOCK_N=tiling.block_n,
            ASM=None if INTERPRETED else _decode_asm(weight.lookup), NUM_STAGES=tiling.num_stages, **launch,
        )  # fmt: skip
    return out


@cache
def _decode_asm(planes: tuple[int, ...]) -> str:
    """Two neighbouring words ($8, $9) -> eight registers ($0-$7): of each plane, the two words' values.

    planes: the table's low and high bytes, four a word. Per four codes and byte, two byte permutes look up
    the lower and the upper half of the table, and a mask made of the codes' high bits selects.
    """
    lines = [
        ".reg .b32 zero, codes, moved, mask, x, y, p, q, t0, t2, t4, t6;",
        # A byte permute takes one constant. Others the compiler would keep in uniform registers and move over
        # before each use, an eighth of all instructions, if it knew that they are the same in all lanes.
        "mov.u32 zero, %lanemask_lt; shr.u32 zero, zero, 31;",
        *(f"xor.b32 t{i}, zero, {value};" for i, value in zip((0, 2, 4, 6), planes[::2], strict=True)),
    ]
    for word, planes_out in (("$8", range(4)), ("$9", range(4, 8))):
        lines.append(f"and.b32 codes, {word}, 0x77777777; mov.b32 moved, {word};")
        for half in range(2):
            if half:
                lines.append(f"shr.u32 codes, codes, 16; shl.b32 moved, {word}, 4;")
            lines.append("prmt.b32 mask, moved, moved, 0xBA98;")
            for byte, i in (("p", 0), ("q", 4)):
                lines.append(f"prmt.b32 x, t{i}, {planes[i + 1]}, codes;")
                lines.append(f"prmt.b32 y, t{i + 2}, {planes[i + 3]}, codes;")
                lines.append(f"lop3.b32 {byte}, mask, y, x, 0xCA;")
            first = planes_out[2 * half]
            lines.append(f"prmt.b32 ${first}, p, q, 0x5140; prmt.b32 ${first + 1}, p, q, 0x7362;")
    return "{" + " ".join(lines) + "}"


@triton.jit
def _decode(pointers, word, table, ASM: tl.constexpr):
    """Pointers to words (BLOCK_N, 16) -> eight planes of values, same shape.

    With ASM, two neighbouring words must lie in one thread, in order; every layout that tensor cores take or
    that loads 8 bytes at once does so.
    """
    kind = table.dtype.element_ty
    if ASM is not None:
        return tl.inline_asm_elementwise(
            ASM,
            "=r,=r,=r,=r,=r,=r,=r,=r,r,r",
            [tl.load(pointers)],
            dtype=(kind, kind, kind, kind, kind, kind, kind, kind),
            is_pure=True,
            pack=2,
        )
    odd = word[None, :] & 1
    first = tl.load(pointers - odd)
    second = tl.load(pointers - odd + 1)
    return (
        tl.load(table + _code(first, odd)),
        tl.load(table + _code(first, odd + 2)),
        tl.load(table + _code(first, odd + 4)),
        tl.load(table + _code(first, odd + 6)),
        tl.load(table + _code(second, odd)),
        tl.load(table + _code(second, odd + 2)),
        tl.load(table + _code(second, odd + 4)),
        tl.load(table + _code(second, odd + 6)),
    )


@triton.jit
def _code(words, position):
    """The code at each position of each word (see packing.py)."""
    high_bit = tl.where(position < 4, 8 * position + 7, 8 * position - 29)
    return words >> 4 * position & 7 | (words >> high_bit & 1) << 3


@triton.jit
def _rows_of(program, num_rows, num_outputs, EACH: tl.constexpr, BLOCK_M: tl.constexpr):
    """Where a program's rows begin and where they end, and where their weights begin."""
    if EACH:
        return program, program + 1, program * num_outputs
    return program * BLOCK_M, num_rows, 0


@triton.jit(do_not_specialize=["num_rows"])
def _planes_kernel(
    x_ptr, data_ptr, scales_ptr, table_ptr, out_ptr, bias_ptr,
    num_rows, x_stride, num_outputs, all_outputs, num_inputs, num_blocks,
    PER_SPLIT: tl.constexpr, EACH: tl.constexpr, WHOLE: tl.constexpr, FULL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, ASM: tl.constexpr, NUM_STAGES: tl.constexpr,
):  # fmt: skip
    """4-bit weights: out[split, m, n] = Σ over the split's blocks of scale · (table[code] · x)."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    first_row, end_row, first_output = _rows_of(tl.program_id(2), num_rows, num_outputs, EACH, BLOCK_M)
    m = first_row + tl.arange(0, BLOCK_M)
    word = tl.arange(0, _WORDS)
    BLOCK_K: tl.constexpr = 8 * _WORDS
    NUM_GROUPS: tl.constexpr = BLOCK_K // _GROUP
    PLANES: tl.constexpr = 8 // NUM_GROUPS  # of one group
    safe_n = first_output + tl.where(n < num_outputs, n, 0)
    x_rows = x_ptr + m[None, :] * x_stride + word[:, None]
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for i in tl.range(PER_SPLIT, num_stages=NUM_STAGES):
        # A last split of fewer blocks reads the last one again, against zeros.
        block = split * PER_SPLIT + i
        there = tl.minimum(block, num_blocks - 1).to(tl.int64)
        words = data_ptr + (there * all_outputs + safe_n)[:, None] * _WORDS + word[None, :]
        planes = _decode(words, word, table_ptr, ASM)
        for group in tl.static_range(NUM_GROUPS):
            scale = tl.load(scales_ptr + (there * NUM_GROUPS + group) * all_outputs + safe_n)
            part = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
            for j in tl.static_range(PLANES):
                start = block * BLOCK_K + (group * PLANES + j) * _WORDS
                if FULL and WHOLE:
                    x = tl.load(x_rows + start)  # (16, BLOCK_M)
                else:
                    inside = (m < end_row)[None, :]
                    if not WHOLE:
                        inside = inside & (start + word < num_inputs)[:, None]
                    x = tl.load(x_rows + start, mask=inside, other=0.0)
                part = tl.dot(planes[group * PLANES + j], x, part)
            acc += part * scale[:, None]
    _store(acc, out_ptr, bias_ptr, split, m, n, num_rows, end_row, num_outputs, first_output)


@triton.jit(do_not_specialize=["num_rows"])
def _rows_kernel(
    x_ptr, data_ptr, scales_ptr, out_ptr, bias_ptr,
    num_rows, x_stride, num_outputs, all_outputs, num_inputs,
    PER_SPLIT: tl.constexpr, EACH: tl.constexpr, WHOLE: tl.constexpr, FULL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """16-bit weights, or int8 with a scale for each output."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    first_row, end_row, first_output = _rows_of(tl.program_id(2), num_rows, num_outputs, EACH, BLOCK_M)
    m = first_row + tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_K)
    safe_n = (first_output + tl.where(n < num_outputs, n, 0)).to(tl.int64)
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for i in range(PER_SPLIT):
        at = (split * PER_SPLIT + i) * BLOCK_K + k
        values_at = data_ptr + safe_n[:, None] * num_inputs + at[None, :]
        x_at = x_ptr + m[None, :] * x_stride + at[:, None]
        if FULL and WHOLE:
            values = tl.load(values_at)
            x = tl.load(x_at)  # (BLOCK_K, BLOCK_M)
        else:
            inside = at < num_inputs
            values = tl.load(values_at, mask=inside[None, :], other=0)
            x = tl.load(x_at, mask=(m < end_row)[None, :] & inside[:, None], other=0.0)
        acc = tl.dot(values.to(x.dtype), x, acc)
    if scales_ptr is not None:
        acc *= tl.load(scales_ptr + safe_n)[:, None]
    _store(acc, out_ptr, bias_ptr, split, m, n, num_rows, end_row, num_outputs, first_output)


@triton.jit
def _store(acc, out_ptr, bias_ptr, split, m, n, num_rows, end_row, num_outputs, first_output):
    """acc (BLOCK_N, BLOCK_M) -> out (S, M, N); the bias goes with the first split."""
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + first_output + n, mask=n < num_outputs, other=0.0).to(tl.float32)
        acc += tl.where(split == 0, bias, 0.0)[:, None]
    out = out_ptr + (split * num_rows + m).to(tl.int64)[None, :] * num_outputs + n[:, None]
    tl.store(out, acc, mask=(m < end_row)[None, :] & (n < num_outputs)[:, None])
