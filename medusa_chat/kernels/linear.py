"""Linear layers of 1 to 64 rows over 16-bit, 8-bit and 4-bit weights, at about the price of one row.

A step that verifies a tree must cost what a step of one token costs, so weights are read once, decoded in
registers and multiplied by all rows on the tensor cores. A row's sum runs over K in the same order however
many rows there are: drafting then changes no bit of a reply.

Where there are few outputs, K is split over several programs. The result is left as partial sums (S, M, N)
for the kernel that reads them next to add up, in order: no launch and no atomics for the reduction. They are
rounded as a layer's output is elsewhere, to the inputs' 16 bits: of 64 rows of a 7B in 4 bits they are a
fifth of the weights' bytes. Logits, of which the largest two may be near, are asked for in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from medusa_chat.kernels.packing import BLOCK_K, BYTES_WORDS, GROUP, WORDS, PackedWeight
from medusa_chat.kernels.shared_memory import allow_beside_tensors
from medusa_chat.kernels.unpacking import (
    INTERPRETED,
    decode,
    decoding_of,
    has_room_for_tables,
    widen,
    widening,
)

MAX_ROWS = 64  # of one program; more take several
_BLOCK_K = tl.constexpr(BLOCK_K)
_BYTES_WORDS = tl.constexpr(BYTES_WORDS)
_GROUP = tl.constexpr(GROUP)
_WORDS = tl.constexpr(WORDS)


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a product is cut. splits fixes the order of summation and belongs to the weight; the rest may
    change with the number of rows and changes no bit. by_table: 4-bit codes are decoded by a table in shared
    memory, which takes 32 kB for each program.
    """

    splits: int
    block_n: int
    num_warps: int = 4
    num_stages: int = 3
    by_table: bool = False


def default_tiling(weight: PackedWeight, device: torch.device) -> Tiling:
    """What was best, or within a tenth of it, for every shape of a 7B model on an H100: about two programs
    for each processor.
    """
    num_processors, by_table = 1, False  # Triton's interpreter, where there is no GPU
    if device.type == "cuda":
        num_processors = torch.cuda.get_device_properties(device).multi_processor_count
        by_table = has_room_for_tables(device)
    block_n = 64 if weight.table is None else 128
    num_tiles, num_blocks = triton.cdiv(weight.num_outputs, block_n), triton.cdiv(weight.num_inputs, BLOCK_K)
    splits = 1
    while splits < 8 and num_tiles * splits < 1.9 * num_processors and num_blocks >= 4 * splits:
        splits *= 2
    return Tiling(splits, block_n, by_table=by_table)


def linear_reference(x: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
    """x (M, K) -> (1, M, N) float32."""
    out = x.float() @ weight.dequantized().T
    return (out if weight.bias is None else out + weight.bias.float())[None]


def linear(
    x: torch.Tensor, weight: PackedWeight, tiling: Tiling, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """x (M, K) in 16 bits -> (S, M, N) in the dtype, or x's own, whose sum over S is x W^T + bias."""
    return _product(x, weight, tiling, dtype, each=False)


def linear_each_reference(x: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
    """x (M, K), weight of M layers stacked, each of N outputs for a row of its own -> (1, M, N) float32."""
    all_outputs = linear_reference(x, weight)[0].view(len(x), len(x), -1)  # (M, M, N)
    return all_outputs.diagonal().T[None]


def linear_each(
    x: torch.Tensor, weight: PackedWeight, tiling: Tiling, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """As linear_each_reference, but partial sums as linear's, in one launch. x may be one row, expanded."""
    return _product(x, weight, tiling, dtype, each=True)


def _product(
    x: torch.Tensor, weight: PackedWeight, tiling: Tiling, dtype: torch.dtype | None, *, each: bool
) -> torch.Tensor:
    """By the op medusa_chat::linear, which takes tensors and numbers alone."""
    out: torch.Tensor = torch.ops.medusa_chat.linear.default(
        x, weight.data, each, tiling.splits, dtype or x.dtype,
        weight.scales, weight.table, weight.lookup, weight.bias,
        tiling.block_n, tiling.num_warps, tiling.num_stages, tiling.by_table,
    )  # fmt: skip
    return out


def _launch(
    x: torch.Tensor,
    data: torch.Tensor,
    each: bool,
    splits: int,
    dtype: torch.dtype,
    scales: torch.Tensor | None,
    table: torch.Tensor | None,
    lookup: Sequence[int],
    bias: torch.Tensor | None,
    block_n: int,
    num_warps: int,
    num_stages: int,
    by_table: bool,
) -> torch.Tensor:
    """The op: the fields of a PackedWeight and of a Tiling."""
    out = _outputs(x, data, each, splits, dtype)
    num_rows, num_inputs = x.shape
    all_outputs, num_outputs = data.shape[-2], out.shape[-1]
    block_m = 16 if each else min(MAX_ROWS, max(16, triton.next_power_of_2(num_rows)))
    num_blocks = triton.cdiv(num_inputs, BLOCK_K)
    num_tiles = triton.cdiv(num_outputs, block_n)
    grid = (num_tiles, splits, num_rows if each else triton.cdiv(num_rows, block_m))
    sizes = num_rows, x.stride(0), num_outputs, all_outputs, num_inputs, num_blocks
    launch = {
        "BLOCK_M": block_m, "BLOCK_N": block_n, "EACH": each,
        # Where no row and no inner position is missing nothing is masked.
        "FULL": not each and num_rows % block_m == 0, "WHOLE": num_blocks * BLOCK_K == num_inputs,
        "num_warps": num_warps, "num_stages": num_stages,
    }  # fmt: skip
    if table is not None:
        if block_m == MAX_ROWS:
            # So many sums in four warps take all of their registers, and few programs run at once.
            launch |= {"num_warps": 2 * num_warps, "maxnreg": 128}
        decoding = decoding_of(tuple(lookup), launch["num_warps"], by_table=by_table)
        if decoding.filling is not None:
            allow_beside_tensors(_codes_kernel.__name__)
        _codes_kernel[grid](
            x, data, scales, table, out, bias, *sizes,
            FILLING=decoding.filling, FIRST=decoding.first, SECOND=decoding.second,
            NUM_STAGES=num_stages, **launch,
        )  # fmt: skip
    elif scales is not None:
        asm = None if INTERPRETED else widening(x.dtype)
        _bytes_kernel[grid](x, data, scales, out, bias, *sizes, ASM=asm, **launch)
    else:
        _values_kernel[grid](x, data, out, bias, *sizes, **launch)
    return out


def _outputs(
    x: torch.Tensor, data: torch.Tensor, each: bool, splits: int, dtype: torch.dtype, *_: object
) -> torch.Tensor:
    """(S, M, N) without values, which is all that tracers ask of the op."""
    num_rows, all_outputs = x.shape[0], data.shape[-2]
    num_outputs = all_outputs // num_rows if each else all_outputs
    return x.new_empty(splits, num_rows, num_outputs, dtype=dtype)


# So defined, dispatching adds 5 µs of the host to a call; by torch.library.custom_op 9, by triton_op 11.
_LIBRARY = torch.library.Library("medusa_chat", "FRAGMENT")
_LIBRARY.define(
    "linear(Tensor x, Tensor data, bool each, int splits, ScalarType dtype, Tensor? scales, Tensor? table, "
    "int[] lookup, Tensor? bias, int block_n, int num_warps, int num_stages, bool by_table) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
_LIBRARY.impl("linear", _launch, "CompositeExplicitAutograd")
torch.library.register_fake("medusa_chat::linear", _outputs, lib=_LIBRARY)


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
    n, split, m, end_row, first_output = _place(num_rows, num_outputs, EACH, BLOCK_M, BLOCK_N)
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
            values = decode(words_at, words, word, table_ptr, group, FIRST if group == 0 else SECOND, BLOCK_N)
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
    n, split, m, end_row, first_output = _place(num_rows, num_outputs, EACH, BLOCK_M, BLOCK_N)
    word = tl.arange(0, _BYTES_WORDS)
    k = tl.arange(0, _BLOCK_K)
    safe_n = first_output + tl.where(n < num_outputs, n, 0)
    x_rows = x_ptr + m[None, :] * x_stride + k[:, None]
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    first_block, end_block = _blocks_of(split, num_blocks)
    for block in range(first_block, end_block):
        there = (block * all_outputs + safe_n).to(tl.int64)
        words_at = data_ptr + there[:, None] * _BYTES_WORDS + word[None, :]
        values = widen(words_at, tl.load(words_at), word, x_ptr, ASM, BLOCK_N)
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
    n, split, m, end_row, first_output = _place(num_rows, num_outputs, EACH, BLOCK_M, BLOCK_N)
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
        acc = tl.dot(values.to(x.dtype), x, acc)
    _store(acc, out_ptr, bias_ptr, split, m, n, num_rows, end_row, num_outputs, first_output)


@triton.jit
def _place(num_rows, num_outputs, EACH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """A program's outputs n and split, its rows m and where they end, and where its weights begin."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    first_row, end_row, first_output = _rows_of(tl.program_id(2), num_rows, num_outputs, EACH, BLOCK_M)
    return n, tl.program_id(1), first_row + tl.arange(0, BLOCK_M), end_row, first_output


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
    tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=(m < end_row)[None, :] & (n < num_outputs)[:, None])
