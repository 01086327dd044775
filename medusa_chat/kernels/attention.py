"""Attention of a few rows, in a tree or in a run, over a long cache; its cost follows the tokens in it.

A row at position p attends to its keys in two parts. Those at positions below a boundary, a multiple of 16 at
least 15 behind p, lie in the cache in order: they are cut into runs of 256 positions, each taken by a program
of its own on the tensor cores. The 16 to 31 after it, which for a node of a tree are its ancestors wherever
they lie, are gathered row by row, by a second kernel beside the first: neither alone fills the GPU. A third
joins the parts in order.

Runs, boundary and gathered places depend on p alone, so a row's output has the same bits whether it was
decoded plainly, in a prompt or as a node of any tree. Nor are kernels compiled anew for another capacity of
the cache. Grouped queries share one read of their keys.

Of a cache in 8 bits the tensor cores take the whole numbers, which 16 bits hold exactly: a key's scale
multiplies its scores, a value's scale its weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from medusa_chat.kernels.beside import beside, branch_off, rejoin
from medusa_chat.kernels.kv_rows import KVRows
from medusa_chat.kernels.rotary import HeadShape
from medusa_chat.kernels.shared_memory import run_beside_others

MAX_DEPTH = 15  # of a tree; the gathered part must reach from any node to its root
RUN = 256  # positions taken by one program
# Of queries, in every program: a tile of another height would sum in another order. One row takes no longer.
_BLOCK_ROWS = 64
_MAX_DEPTH = tl.constexpr(MAX_DEPTH)
_RUN = tl.constexpr(RUN)
_TAIL = tl.constexpr(32)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where M rows stand. length (1,) int32: rows in the cache before them. depths (M,) int64: each row's
    position behind those. paths (M, W) int64: the row that is its ancestor at each depth up to its own; None
    if the rows are a run, each seeing all before it. num_runs: as many runs of positions as any row reaches,
    or more.
    """

    length: torch.Tensor
    depths: torch.Tensor
    paths: torch.Tensor | None
    num_runs: int


def runs_reached(num_positions: int) -> int:
    """Runs that cover so many positions."""
    return max(1, -(-num_positions // RUN))


def attention_reference(
    queries: torch.Tensor,
    keys: KVRows,
    values: KVRows,
    shape: HeadShape,
    placement: Placement,
    scale: float,
) -> torch.Tensor:
    """queries (M, H, d), keys and values (G, capacity, d) with the M rows appended -> (M, H·d)."""
    num_rows = queries.shape[0]
    length, depths = int(placement.length), placement.depths
    own = torch.arange(num_rows, device=queries.device)
    if placement.paths is None:
        visible = own <= own[:, None]
    else:
        on_path = torch.arange(placement.paths.shape[1], device=own.device) <= depths[:, None]  # (M, W)
        visible = ((placement.paths[:, :, None] == own) & on_path[:, :, None]).any(1)
    before = visible.new_ones(num_rows, length)
    visible = torch.cat([before, visible], 1)  # (M, T + M)
    group = shape.num_heads // shape.num_kv_heads
    seen_keys, seen_values = (
        rows[:, : length + num_rows].read(torch.float32).repeat_interleave(group, 0)
        for rows in (keys, values)
    )
    scores = torch.einsum("mhd,htd->hmt", queries.float(), seen_keys) * scale
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return torch.einsum("hmt,htd->mhd", weights, seen_values).flatten(1).to(queries.dtype)


def attention(
    queries: torch.Tensor,
    keys: KVRows,
    values: KVRows,
    shape: HeadShape,
    placement: Placement,
    scale: float,
) -> torch.Tensor:
    """As attention_reference, in three launches."""
    num_rows, num_heads, dim = queries.shape
    group = num_heads // shape.num_kv_heads
    num_tiles = triton.cdiv(num_rows * group, _BLOCK_ROWS)
    # Of each part, the gathered one being the last: the weighted mean of its values, in 16 bits as the whole
    # one will be, and the largest score and the sum of weights.
    num_parts = placement.num_runs + 1
    parts = torch.empty(num_rows, num_heads, num_parts, dim, dtype=queries.dtype, device=queries.device)
    sums = torch.empty(num_rows, num_heads, num_parts, 2, dtype=torch.float32, device=queries.device)
    out = torch.empty(num_rows, num_heads * dim, dtype=queries.dtype, device=queries.device)
    cached = keys.numbers, values.numbers, keys.scales, values.scales
    where = placement.length, placement.depths
    sizes = {"HEADS": num_heads, "DIM": dim, "BLOCK_DIM": triton.next_power_of_2(dim)}
    scale_2 = scale * 1.4426950408889634  # powers of two are cheaper than of e
    run_beside_others(_gathered_kernel.__name__)
    branch_off(queries.device)
    # First, for they take longest: what is launched first finds its place first.
    _runs_kernel[(placement.num_runs, shape.num_kv_heads, num_tiles)](
        queries, *cached, *where, parts, sums, num_rows, num_parts, keys.row_stride, scale_2,
        **sizes, GROUP=group, BLOCK_ROWS=_BLOCK_ROWS, BLOCK_KEYS=64, num_warps=4, num_stages=3,
    )  # fmt: skip
    with beside(queries.device):
        # Many small programs: where a warp waits for its few keys others run.
        _gathered_kernel[(num_rows, num_heads)](
            queries, *cached, *where, placement.paths, parts, sums, num_parts, keys.row_stride, scale_2,
            **sizes, GROUP=group, WIDTH=0 if placement.paths is None else placement.paths.shape[1],
            num_warps=1,
        )  # fmt: skip
    rejoin(queries.device)
    _join_kernel[(num_rows, num_heads)](parts, sums, *where, out, num_parts, **sizes, num_warps=1)
    return out


@triton.jit
def _boundary(position):
    """Where the gathered part of a row at this position begins."""
    return tl.maximum(position - _MAX_DEPTH, 0) // 16 * 16


@triton.jit(
    do_not_specialize=["num_rows", "num_parts", "capacity"],
    do_not_specialize_on_alignment=["key_scales_ptr", "value_scales_ptr"],
)
def _runs_kernel(
    queries_ptr, keys_ptr, values_ptr, key_scales_ptr, value_scales_ptr, length_ptr, depths_ptr,
    parts_ptr, sums_ptr, num_rows, num_parts, capacity, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr,
):  # fmt: skip
    """A tile of rows (of all heads of the group) against the keys of one run of positions."""
    run = tl.program_id(0)
    kv_head = tl.program_id(1)
    length = tl.load(length_ptr)
    flat = tl.program_id(2) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row = flat // GROUP
    head = kv_head * GROUP + flat % GROUP
    inside = row < num_rows
    boundary = _boundary(length + tl.load(depths_ptr + row, mask=inside, other=0).to(tl.int32))
    boundary = tl.where(inside, boundary, 0)
    first = run * _RUN
    last = tl.minimum(first + _RUN, tl.max(boundary))
    if first < last:
        dim = tl.arange(0, BLOCK_DIM)
        in_dim = dim < DIM
        q = tl.load(
            queries_ptr + (row * HEADS + head)[:, None] * DIM + dim[None, :],
            mask=inside[:, None] & in_dim[None, :],
            other=0.0,
        )
        best = tl.full((BLOCK_ROWS,), -float("inf"), tl.float32)
        total = tl.zeros((BLOCK_ROWS,), tl.float32)
        acc = tl.zeros((BLOCK_ROWS, BLOCK_DIM), tl.float32)
        base = kv_head.to(tl.int64) * capacity
        for block in range(_RUN // BLOCK_KEYS):
            at = first + block * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
            within = at < last
            slots = base + at
            offsets = slots[:, None] * DIM + dim[None, :]
            there = within[:, None] & in_dim[None, :]
            k = tl.load(keys_ptr + offsets, mask=there, other=0).to(q.dtype)  # (BLOCK_KEYS, d)
            v = tl.load(values_ptr + offsets, mask=there, other=0).to(q.dtype)
            scores = tl.dot(q, tl.trans(k)) * scale
            if key_scales_ptr is not None:
                scores *= tl.load(key_scales_ptr + slots, mask=within, other=0.0)[None, :]
            scores = tl.where(at[None, :] < boundary[:, None], scores, -float("inf"))
            new_best = tl.maximum(best, tl.max(scores, 1))
            safe = tl.where(new_best == -float("inf"), 0.0, new_best)
            weights = tl.exp2(scores - safe[:, None])
            shrink = tl.exp2(best - safe)
            total = total * shrink + tl.sum(weights, 1)
            if value_scales_ptr is not None:
                weights *= tl.load(value_scales_ptr + slots, mask=within, other=0.0)[None, :]
            acc = acc * shrink[:, None] + tl.dot(weights.to(v.dtype), v)
            best = new_best
        part = (row * HEADS + head).to(tl.int64) * num_parts + run
        # Of a row that sees nothing of the run the part is never read.
        mean = (acc / tl.where(total > 0.0, total, 1.0)[:, None]).to(parts_ptr.dtype.element_ty)
        tl.store(parts_ptr + part[:, None] * DIM + dim[None, :], mean, mask=inside[:, None] & in_dim[None, :])
        tl.store(sums_ptr + part * 2, best, mask=inside)
        tl.store(sums_ptr + part * 2 + 1, total, mask=inside)


@triton.jit(
    do_not_specialize=["num_parts", "capacity"],
    do_not_specialize_on_alignment=["key_scales_ptr", "value_scales_ptr"],
)
def _gathered_kernel(
    queries_ptr, keys_ptr, values_ptr, key_scales_ptr, value_scales_ptr, length_ptr, depths_ptr, paths_ptr,
    parts_ptr, sums_ptr, num_parts, capacity, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One row and head against its last 16 to 31 keys and itself."""
    row = tl.program_id(0)
    query = row * HEADS + tl.program_id(1)
    kv_head = tl.program_id(1) // GROUP
    length = tl.load(length_ptr)
    position = length + tl.load(depths_ptr + row).to(tl.int32)
    at = _boundary(position) + tl.arange(0, _TAIL)
    within = at <= position
    if WIDTH > 0:
        in_tree = within & (at >= length)
        node = tl.load(paths_ptr + row * WIDTH + at - length, mask=in_tree, other=0).to(tl.int32)
        at = tl.where(in_tree, length + node, at)
    dim = tl.arange(0, BLOCK_DIM)
    in_dim = dim < DIM
    slots = kv_head.to(tl.int64) * capacity + at
    offsets = slots[:, None] * DIM + dim[None, :]
    there = within[:, None] & in_dim[None, :]
    k = tl.load(keys_ptr + offsets, mask=there, other=0).to(tl.float32)  # (32, d)
    v = tl.load(values_ptr + offsets, mask=there, other=0).to(tl.float32)
    if key_scales_ptr is not None:
        k *= tl.load(key_scales_ptr + slots, mask=within, other=0.0)[:, None]
    if value_scales_ptr is not None:
        v *= tl.load(value_scales_ptr + slots, mask=within, other=0.0)[:, None]
    q = tl.load(queries_ptr + query * DIM + dim, mask=in_dim, other=0.0).to(tl.float32)
    scores = tl.where(within, tl.sum(k * q[None, :], 1) * scale, -float("inf"))
    best = tl.max(scores, 0)
    weights = tl.exp2(scores - best)
    part = query.to(tl.int64) * num_parts + num_parts - 1
    total = tl.sum(weights, 0)
    mean = tl.sum(weights[:, None] * v, 0) / total
    tl.store(parts_ptr + part * DIM + dim, mean.to(parts_ptr.dtype.element_ty), mask=in_dim)
    tl.store(sums_ptr + part * 2, best)
    tl.store(sums_ptr + part * 2 + 1, total)


@triton.jit(do_not_specialize=["num_parts"])
def _join_kernel(
    parts_ptr, sums_ptr, length_ptr, depths_ptr, out_ptr, num_parts,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    """The parts of one row and head: the gathered one, which is never empty, then the runs in order."""
    row = tl.program_id(0)
    query = row * HEADS + tl.program_id(1)
    dim = tl.arange(0, BLOCK_DIM)
    in_dim = dim < DIM
    first = query.to(tl.int64) * num_parts
    gathered = first + num_parts - 1
    best = tl.load(sums_ptr + gathered * 2)
    total = tl.load(sums_ptr + gathered * 2 + 1)
    acc = total * tl.load(parts_ptr + gathered * DIM + dim, mask=in_dim, other=0.0)
    end = first + tl.cdiv(_boundary(tl.load(length_ptr) + tl.load(depths_ptr + row).to(tl.int32)), _RUN)
    part = first
    while part < end:
        part_best = tl.load(sums_ptr + part * 2)
        new_best = tl.maximum(best, part_best)
        shrink = tl.exp2(best - new_best)
        weight = tl.exp2(part_best - new_best) * tl.load(sums_ptr + part * 2 + 1)
        total = total * shrink + weight
        acc = acc * shrink + tl.load(parts_ptr + part * DIM + dim, mask=in_dim, other=0.0) * weight
        best = new_best
        part += 1
    tl.store(out_ptr + query * DIM + dim, (acc / total).to(out_ptr.dtype.element_ty), mask=in_dim)
