"""Linear layers of 1 to 64 rows over 16-bit, 8-bit and 4-bit weights, at about the price of one row.

A step that verifies a tree must cost what a step of one token costs, so weights are read once, decoded in
registers and multiplied by all rows on the tensor cores. A row's sum runs over K in the same order however
many rows there are: drafting then changes no bit of a reply.

What limits a product of few rows is how fast codes are decoded. A table of pairs in shared memory takes half
the instructions that arithmetic takes, but 32 kB for each program: only where a processor has room for several
of those is it used. The values are the same.

Where there are few outputs, K is split over several programs. The result is left as partial sums (S, M, N)
for the kernel that reads them next to add up, in order: no launch and no atomics for the reduction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from triton import knobs

from medusa_chat.kernels.packing import BLOCK_K, BYTES_WORDS, GROUP, ROTATION, WORDS, PackedWeight
from medusa_chat.kernels.shared_memory import allow_beside_tensors

MAX_ROWS = 64  # of one program; more take several
INTERPRETED = knobs.runtime.interpret  # no inline assembly there
_BLOCK_K = tl.constexpr(BLOCK_K)
_BYTES_WORDS = tl.constexpr(BYTES_WORDS)
_GROUP = tl.constexpr(GROUP)
_WORDS = tl.constexpr(WORDS)
_ROTATION = tl.constexpr(ROTATION)
_ENTRY_BYTES = 1 << ROTATION  # of the table of pairs: a word for each lane of a warp
_ROOM_FOR_TABLES = 128 * 1024  # bytes of shared memory of a processor; consumer cards have 100 kB


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a product is cut. splits fixes the order of summation and belongs to the weight; the rest may
    change with the number of rows and changes no bit.
    """

    splits: int
    block_n: int
    num_warps: int = 4
    num_stages: int = 3


def default_tiling(weight: PackedWeight, num_processors: int) -> Tiling:
    """What was best, or within a tenth of it, for every shape of a 7B model on an H100: about two programs for
    each processor.
    """
    block_n = 64 if weight.table is None else 128
    num_tiles, num_blocks = triton.cdiv(weight.num_outputs, block_n), triton.cdiv(weight.num_inputs, BLOCK_K)
    splits = 1
    while splits < 8 and num_tiles * splits < 1.9 * num_processors and num_blocks >= 4 * splits:
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
    num_blocks = triton.cdiv(weight.num_inputs, BLOCK_K)
    num_tiles = triton.cdiv(num_outputs, tiling.block_n)
    grid = (num_tiles, tiling.splits, num_rows if each else triton.cdiv(num_rows, block_m))
    sizes = num_rows, x.stride(0), num_outputs, weight.num_outputs, weight.num_inputs, num_blocks
    launch = {
        "BLOCK_M": block_m, "BLOCK_N": tiling.block_n, "EACH": each,
        # Where no row and no inner position is missing nothing is masked.
        "FULL": not each and num_rows % block_m == 0, "WHOLE": num_blocks * BLOCK_K == weight.num_inputs,
        "num_warps": tiling.num_warps, "num_stages": tiling.num_stages,
    }  # fmt: skip
    if weight.table is not None:
        if block_m == MAX_ROWS:
            # So many sums in four warps take all of their registers, and few programs run at once.
            launch |= {"num_warps": 2 * tiling.num_warps, "maxnreg": 128}
        filling, (first, second) = _decoding(weight, launch["num_warps"], x.device)
        _codes_kernel[grid](
            x, weight.data, weight.scales, weight.table, out, weight.bias, *sizes,
            FILLING=filling, FIRST=first, SECOND=second, NUM_STAGES=tiling.num_stages, **launch,
        )  # fmt: skip
    elif weight.scales is not None:
        asm = None if INTERPRETED else _widening(x.dtype)
        _bytes_kernel[grid](x, weight.data, weight.scales, out, weight.bias, *sizes, ASM=asm, **launch)
    else:
        _values_kernel[grid](x, weight.data, out, weight.bias, *sizes, **launch)
    return out


def _decoding(
    weight: PackedWeight, num_warps: int, device: torch.device
) -> tuple[str | None, tuple[str, str] | tuple[None, None]]:
    """What fills a program's table, if it has one, and what decodes both of two neighbouring words."""
    if INTERPRETED:
        return None, (None, None)
    if not has_room_for_tables(device):
        return None, _arithmetic(weight.lookup)
    allow_beside_tensors(_codes_kernel.__name__)
    return _filling(weight.lookup, num_warps), _lookup()


@cache
def has_room_for_tables(device: torch.device) -> bool:
    """Of pairs, in shared memory."""
    return torch.cuda.get_device_properties(device).shared_memory_per_multiprocessor >= _ROOM_FOR_TABLES


@cache
def _arithmetic(planes: tuple[int, ...]) -> tuple[str, str]:
    """Of each of two neighbouring words ($4, $5), decoding by arithmetic: planes 0 to 3 of the values, or 4 to 7,
    in $0 to $3.

    planes: the table's low and high bytes, four a word. Per four codes and byte, two byte permutes look up
    the lower and the upper half of the table, and a mask made of the codes' high bits selects.
    """
    lines = [
        ".reg .b32 zero, word, codes, moved, mask, x, y, p, q, t0, t2, t4, t6;",
        # A byte permute takes one constant. Others the compiler would keep in uniform registers and move over
        # before each use, an eighth of all instructions, if it knew that they are the same in all lanes.
        "mov.u32 zero, %lanemask_lt; shr.u32 zero, zero, 31;",
        *(f"xor.b32 t{i}, zero, {value};" for i, value in zip((0, 2, 4, 6), planes[::2], strict=True)),
        f"shf.r.wrap.b32 word, $word, $word, {ROTATION}; shl.b32 moved, word, 4; and.b32 codes, word, 0x77777777;",
    ]
    for half, high_bits in enumerate(("0xD9C8", "0xFBEA")):
        if half:
            lines.append("shr.u32 codes, codes, 16;")
        lines.append(f"prmt.b32 mask, moved, word, {high_bits};")
        for byte, i in (("p", 0), ("q", 4)):
            lines.append(f"prmt.b32 x, t{i}, {planes[i + 1]}, codes;")
            lines.append(f"prmt.b32 y, t{i + 2}, {planes[i + 3]}, codes;")
            lines.append(f"lop3.b32 {byte}, mask, y, x, 0xCA;")
        lines.append(f"prmt.b32 ${2 * half}, p, q, 0x5140; prmt.b32 ${2 * half + 1}, p, q, 0x7362;")
    return _of_both_words(lines)


@cache
def _lookup() -> tuple[str, str]:
    """The same by the table of pairs, which _filling has left in shared memory."""
    lines = [
        ".reg .b32 table, lane, a, b, c, d;",
        "mov.u32 table, medusa_pairs; mov.u32 lane, %laneid; shl.b32 lane, lane, 2;",
        "shf.r.wrap.b32 b, $word, $word, 8; shf.r.wrap.b32 c, $word, $word, 16;",
        "shf.r.wrap.b32 d, $word, $word, 24; mov.b32 a, $word;",
    ]
    for plane, at in enumerate("abcd"):
        lines.append(f"lop3.b32 {at}, {at}, {255 << ROTATION}, lane, 0xEA; add.u32 {at}, {at}, table;")
        lines.append(f"ld.shared.b32 ${plane}, [{at}];")
    return _of_both_words(lines)


def _of_both_words(lines: Sequence[str]) -> tuple[str, str]:
    text = "{ " + " ".join(lines) + " }"
    return text.replace("$word", "$4"), text.replace("$word", "$5")


@cache
def _filling(planes: tuple[int, ...], num_warps: int) -> str:
    """Fills 32 kB of shared memory with the values of every byte's two codes, once for each lane of a warp:
    32 lanes that look up 32 bytes then read 32 banks. Each warp does some of the upper codes.
    """
    values = [_nth_byte(planes[:4], code) | _nth_byte(planes[4:], code) << 8 for code in range(16)]
    share = 16 // num_warps
    entry = _ENTRY_BYTES
    lines = [
        f".shared .align 128 .b8 medusa_pairs[{256 * entry}];",
        "{ .reg .b32 warp, code, at, x, y, p, q, upper; .reg .pred high;",
        f"mov.u32 warp, %tid.x; shr.u32 warp, warp, 5; mul.lo.u32 at, warp, {share * 16 * entry};",
        "mov.u32 $0, %laneid; shl.b32 x, $0, 2; add.u32 at, at, x; mov.u32 x, medusa_pairs; add.u32 at, at, x;",
    ]
    for i in range(share):
        lines.append(f"mad.lo.u32 code, warp, {share}, {i}; setp.ge.u32 high, code, 8; and.b32 code, code, 7;")
        for byte, half in (("p", planes[:4]), ("q", planes[4:])):
            lines.append(f"selp.b32 x, {half[2]}, {half[0]}, high; selp.b32 y, {half[3]}, {half[1]}, high;")
            lines.append(f"prmt.b32 {byte}, x, y, code;")
        lines.append("prmt.b32 upper, p, q, 0x4044; and.b32 upper, upper, 0xFFFF0000;")
        for code, value in enumerate(values):
            lines.append(f"or.b32 x, upper, {value}; st.shared.b32 [at+{(16 * i + code) * entry}], x;")
    return " ".join([*lines, "}"])


@cache
def _widening(dtype: torch.dtype) -> str:
    """Two neighbouring words of bytes ($4, $5) -> the values of planes 0 and 1 ($0, $1), and 2 and 3 ($2, $3).

    A byte's bits become the lowest of a 16-bit number, from which its exponent's value is then taken.
    """
    if dtype == torch.bfloat16:  # 128 and the lower seven bits; less 128, or 256 where the sign bit is set
        lines = [".reg .b32 bytes, value, less, one; mov.u32 one, 0x3F803F80;"]
        widen = (
            "lop3.b32 value, bytes, 0x007F007F, 0x43004300, 0xEA; lop3.b32 less, bytes, 0x00800080, 0xC300C300, 0x6A;"
            "fma.rn.bf16x2 $out, value, one, less;"
        )
    else:  # 1024 and the byte with its sign bit turned; less 1152
        lines = [".reg .b32 bytes, value, less; mov.u32 less, 0xE480E480;"]
        widen = "lop3.b32 value, bytes, 0x00FF00FF, 0x64806480, 0x6A; add.rn.f16x2 $out, value, less;"
    for out, word, shift in ((0, 4, 0), (1, 4, 8), (2, 5, 0), (3, 5, 8)):
        lines.append(f"shr.u32 bytes, ${word}, {shift}; " + widen.replace("$out", f"${out}"))
    return "{ " + " ".join(lines) + " }"


def _nth_byte(words: Sequence[int], n: int) -> int:
    return words[n // 4] >> 8 * (n % 4) & 255


@triton.jit
def _decode(pointers, words, word, table, GROUP_NUMBER: tl.constexpr, ASM: tl.constexpr, BLOCK_N: tl.constexpr):
    """Words (BLOCK_N, 16) at their pointers -> values (BLOCK_N, 64) of one of a block's two groups.

    With ASM, two neighbouring words must lie in one thread, in order; every layout that tensor cores take or
    that loads 8 bytes at once does so.
    """
    if ASM is not None:
        kind = table.dtype.element_ty
        first, second, third, fourth = tl.inline_asm_elementwise(
            ASM, "=r,=r,=r,=r,r,r", [words], dtype=(kind, kind, kind, kind), is_pure=True, pack=2
        )
    else:
        odd = word[None, :] & 1
        held = tl.load(pointers - odd + GROUP_NUMBER)
        first = tl.load(table + (held >> _ROTATION + 4 * odd & 15))
        second = tl.load(table + (held >> _ROTATION + 8 + 4 * odd & 15))
        third = tl.load(table + (held >> _ROTATION + 16 + 4 * odd & 15))
        last = held >> 24 + _ROTATION & 1 | held << 8 - _ROTATION
        fourth = tl.load(table + (last >> 4 * odd & 15))
    return _four_planes(first, second, third, fourth, BLOCK_N)


@triton.jit
def _widen(pointers, words, word, x_ptr, ASM: tl.constexpr, BLOCK_N: tl.constexpr):
    """Words (BLOCK_N, 32) of bytes at their pointers -> a block's values (BLOCK_N, 128)."""
    kind = x_ptr.dtype.element_ty
    if ASM is not None:
        first, second, third, fourth = tl.inline_asm_elementwise(
            ASM, "=r,=r,=r,=r,r,r", [words], dtype=(kind, kind, kind, kind), is_pure=True, pack=2
        )
    else:
        odd = word[None, :] & 1
        lower, upper = tl.load(pointers - odd), tl.load(pointers - odd + 1)
        first = (lower << 24 - 16 * odd >> 24).to(kind)
        second = (lower << 16 - 16 * odd >> 24).to(kind)
        third = (upper << 24 - 16 * odd >> 24).to(kind)
        fourth = (upper << 16 - 16 * odd >> 24).to(kind)
    return _four_planes(first, second, third, fourth, BLOCK_N)


@triton.jit
def _four_planes(first, second, third, fourth, BLOCK_N: tl.constexpr):
    """(BLOCK_N, P) each -> (BLOCK_N, 4P), one after the other. In registers no value moves: to the tensor cores a
    tile is several of 16 positions anyway.
    """
    joined = tl.join(tl.join(first, third), tl.join(second, fourth))  # (BLOCK_N, P, 2, 2)
    return joined.permute(0, 2, 3, 1).reshape(BLOCK_N, 4 * first.shape[1])


@triton.jit
def _rows_of(program, num_rows, num_outputs, EACH: tl.constexpr, BLOCK_M: tl.constexpr):
    """Where a program's rows begin and where they end, and where their weights begin."""
    if EACH:
        return program, program + 1, program * num_outputs
    return program * BLOCK_M, num_rows, 0


@triton.jit(do_not_specialize=["num_rows"])
def _codes_kernel(
    x_ptr, data_ptr, scales_ptr, table_ptr, out_ptr, bias_ptr,
    num_rows, x_stride, num_outputs, all_outputs, num_inputs, num_blocks,
    EACH: tl.constexpr, WHOLE: tl.constexpr, FULL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    FILLING: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, NUM_STAGES: tl.constexpr,
):  # fmt: skip
    """4-bit weights: out[split, m, n] = Σ over the split's groups of scale · (table[code] · x)."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    first_row, end_row, first_output = _rows_of(tl.program_id(2), num_rows, num_outputs, EACH, BLOCK_M)
    m = first_row + tl.arange(0, BLOCK_M)
    word = tl.arange(0, _WORDS)
    k = tl.arange(0, _GROUP)
    if FILLING is not None:
        tl.inline_asm_elementwise(FILLING, "=r,r", [split], dtype=tl.int32, is_pure=False, pack=1)
        tl.debug_barrier()
    safe_n = first_output + tl.where(n < num_outputs, n, 0)
    x_rows = x_ptr + m[None, :] * x_stride + k[:, None]
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    first_block, end_block = _blocks_of(split, num_blocks)
    for block in tl.range(first_block, end_block, num_stages=NUM_STAGES):
        there = block * all_outputs + safe_n
        words_at = data_ptr + there.to(tl.int64)[:, None] * _WORDS + word[None, :]
        words = tl.load(words_at)
        scales = tl.load(scales_ptr + there)
        for group in tl.static_range(2):
            values = _decode(words_at, words, word, table_ptr, group, FIRST if group == 0 else SECOND, BLOCK_N)
            start = (2 * block + group) * _GROUP
            x = _load_rows(x_rows, m, k, end_row, num_inputs, start, FULL, WHOLE)
            scale = (scales >> 16 * group).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
            acc += tl.dot(values, x) * scale[:, None]
    _store(acc, out_ptr, bias_ptr, split, m, n, num_rows, end_row, num_outputs, first_output)


@triton.jit(do_not_specialize=["num_rows"])
def _bytes_kernel(
    x_ptr, data_ptr, scales_ptr, out_ptr, bias_ptr,
    num_rows, x_stride, num_outputs, all_outputs, num_inputs, num_blocks,
    EACH: tl.constexpr, WHOLE: tl.constexpr, FULL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """8-bit weights, a scale for each output."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    first_row, end_row, first_output = _rows_of(tl.program_id(2), num_rows, num_outputs, EACH, BLOCK_M)
    m = first_row + tl.arange(0, BLOCK_M)
    word = tl.arange(0, _BYTES_WORDS)
    k = tl.arange(0, _BLOCK_K)
    safe_n = first_output + tl.where(n < num_outputs, n, 0)
    x_rows = x_ptr + m[None, :] * x_stride + k[:, None]
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    first_block, end_block = _blocks_of(split, num_blocks)
    for block in range(first_block, end_block):
        words_at = data_ptr + (block * all_outputs + safe_n).to(tl.int64)[:, None] * _BYTES_WORDS + word[None, :]
        values = _widen(words_at, tl.load(words_at), word, x_ptr, ASM, BLOCK_N)
        x = _load_rows(x_rows, m, k, end_row, num_inputs, block * _BLOCK_K, FULL, WHOLE)
        acc = tl.dot(values, x, acc)
    acc *= tl.load(scales_ptr + safe_n)[:, None]
    _store(acc, out_ptr, bias_ptr, split, m, n, num_rows, end_row, num_outputs, first_output)


@triton.jit(do_not_specialize=["num_rows"])
def _values_kernel(
    x_ptr, data_ptr, out_ptr, bias_ptr,
    num_rows, x_stride, num_outputs, all_outputs, num_inputs, num_blocks,
    EACH: tl.constexpr, WHOLE: tl.constexpr, FULL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """16-bit weights."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    first_row, end_row, first_output = _rows_of(tl.program_id(2), num_rows, num_outputs, EACH, BLOCK_M)
    m = first_row + tl.arange(0, BLOCK_M)
    k = tl.arange(0, _BLOCK_K)
    safe_n = (first_output + tl.where(n < num_outputs, n, 0)).to(tl.int64)
    values_at = data_ptr + safe_n[:, None] * num_inputs + k[None, :]
    x_rows = x_ptr + m[None, :] * x_stride + k[:, None]
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    first_block, end_block = _blocks_of(split, num_blocks)
    for block in range(first_block, end_block):
        start = block * _BLOCK_K
        if WHOLE:
            values = tl.load(values_at + start)
        else:
            values = tl.load(values_at + start, mask=(start + k < num_inputs)[None, :], other=0.0)
        x = _load_rows(x_rows, m, k, end_row, num_inputs, start, FULL, WHOLE)
        acc = tl.dot(values, x, acc)
    _store(acc, out_ptr, bias_ptr, split, m, n, num_rows, end_row, num_outputs, first_output)


@triton.jit
def _blocks_of(split, num_blocks):
    """Where a split's blocks begin and where they end."""
    num_splits = tl.num_programs(1)
    return split * num_blocks // num_splits, (split + 1) * num_blocks // num_splits


@triton.jit
def _load_rows(x_rows, m, k, end_row, num_inputs, start, FULL: tl.constexpr, WHOLE: tl.constexpr):
    """Some inner positions of x, from start on: (K, BLOCK_M)."""
    if FULL and WHOLE:
        return tl.load(x_rows + start)
    inside = (m < end_row)[None, :]
    if not WHOLE:
        inside = inside & (k + start < num_inputs)[:, None]
    return tl.load(x_rows + start, mask=inside, other=0.0)


@triton.jit
def _store(acc, out_ptr, bias_ptr, split, m, n, num_rows, end_row, num_outputs, first_output):
    """acc (BLOCK_N, BLOCK_M) -> out (S, M, N); the bias goes with the first split."""
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + first_output + n, mask=n < num_outputs, other=0.0).to(tl.float32)
        acc += tl.where(split == 0, bias, 0.0)[:, None]
    out = out_ptr + (split * num_rows + m).to(tl.int64)[None, :] * num_outputs + n[:, None]
    tl.store(out, acc, mask=(m < end_row)[None, :] & (n < num_outputs)[:, None])
