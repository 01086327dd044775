"""Rotary positions: queries and keys turned by their position, keys and values written into the cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from medusa_chat.kernels.kv_rows import LARGEST, LEAST, KVRows

_HEADS_AT_ONCE = 4  # of a program
_LARGEST, _LEAST = tl.constexpr(LARGEST), tl.constexpr(LEAST)


@dataclass(frozen=True, slots=True)
class HeadShape:
    """H query heads over G key/value heads of d dimensions."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """RMS norms of each query and key head (Qwen3): weights (d,)."""

    query: torch.Tensor
    key: torch.Tensor
    eps: float


def rotate_and_append_reference(
    partial: torch.Tensor,
    shape: HeadShape,
    turns: torch.Tensor,
    length: torch.Tensor,
    depths: torch.Tensor,
    keys: KVRows,
    values: KVRows,
    norms: HeadNorms | None = None,
) -> torch.Tensor:
    """partial (S, M, (H + 2G)·d) of the merged projection; turns (2, C, d / 2) float32, cos and sin
    of every position; length (1,) int32, rows in the cache; depths (M,) int64, a row's position behind them;
    keys and values (G, capacity, d), written at rows length, length + 1, … Returns queries (M, H, d).
    """
    num_rows, dim = partial.shape[1], shape.head_dim
    heads = partial.float().sum(0).view(num_rows, -1, dim)  # (M, H + 2G, d)
    query, key, value = heads.split([shape.num_heads, shape.num_kv_heads, shape.num_kv_heads], dim=1)
    if norms is not None:
        query, key = (
            x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norms.eps) * weight.float()
            for x, weight in ((query, norms.query), (key, norms.key))
        )
    cos, sin = turns[:, (length + depths).long(), None]  # (M, 1, d / 2)

    def turned(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    new = slice(int(length), int(length) + num_rows)
    keys[:, new].write(turned(key).transpose(0, 1))
    values[:, new].write(value.transpose(0, 1))
    return turned(query).to(keys.dtype)


def rotate_and_append(
    partial: torch.Tensor,
    shape: HeadShape,
    turns: torch.Tensor,
    length: torch.Tensor,
    depths: torch.Tensor,
    keys: KVRows,
    values: KVRows,
    norms: HeadNorms | None = None,
) -> torch.Tensor:
    """As rotate_and_append_reference, in one launch."""
    num_parts, num_rows, _ = partial.shape
    queries = torch.empty(num_rows, shape.num_heads, shape.head_dim, dtype=keys.dtype, device=partial.device)
    num_tiles = triton.cdiv(shape.num_heads + 2 * shape.num_kv_heads, _HEADS_AT_ONCE)
    _rotate_kernel[(num_rows, num_tiles)](
        partial, turns, length, depths, queries, keys.numbers, values.numbers, keys.scales, values.scales,
        None if norms is None else norms.query, None if norms is None else norms.key,
        0.0 if norms is None else norms.eps,
        num_rows, turns.shape[1], keys.row_stride,
        HEADS=shape.num_heads, KV_HEADS=shape.num_kv_heads, DIM=shape.head_dim,
        BLOCK=triton.next_power_of_2(shape.head_dim // 2), BLOCK_HEADS=_HEADS_AT_ONCE, NUM_PARTS=num_parts,
    )  # fmt: skip
    return queries


@triton.jit(
    do_not_specialize=["num_rows", "capacity"],
    do_not_specialize_on_alignment=["key_scales_ptr", "value_scales_ptr"],
)
def _rotate_kernel(
    partial_ptr, turns_ptr, length_ptr, depths_ptr, queries_ptr, keys_ptr, values_ptr,
    key_scales_ptr, value_scales_ptr, query_norm_ptr, key_norm_ptr, eps, num_rows, num_positions, capacity,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_HEADS: tl.constexpr, NUM_PARTS: tl.constexpr,
):  # fmt: skip
    """Some heads of a row. Which are queries, keys and values is told by their numbers."""
    row = tl.program_id(0)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    at = tl.arange(0, BLOCK)[None, :]
    HALF: tl.constexpr = DIM // 2
    length = tl.load(length_ptr)
    position = length + tl.load(depths_ptr + row)
    in_dim = at < HALF
    cos = tl.load(turns_ptr + position * HALF + at, mask=in_dim, other=0.0)
    sin = tl.load(turns_ptr + (num_positions + position) * HALF + at, mask=in_dim, other=0.0)
    inside = (head < HEADS + 2 * KV_HEADS)[:, None] & in_dim
    first = tl.zeros((BLOCK_HEADS, BLOCK), tl.float32)
    second = tl.zeros((BLOCK_HEADS, BLOCK), tl.float32)
    for part in tl.static_range(NUM_PARTS):
        start = (part * num_rows + row) * (HEADS + 2 * KV_HEADS) + head
        first += tl.load(partial_ptr + start[:, None] * DIM + at, mask=inside, other=0.0)
        second += tl.load(partial_ptr + start[:, None] * DIM + HALF + at, mask=inside, other=0.0)
    is_query = head < HEADS
    is_key = (head >= HEADS) & (head < HEADS + KV_HEADS)
    is_value = (head >= HEADS + KV_HEADS) & (head < HEADS + 2 * KV_HEADS)
    slot = (tl.maximum(head - HEADS, 0) % KV_HEADS) * capacity.to(tl.int64) + length + row
    _write_rows(values_ptr, value_scales_ptr, slot, first, second, at, is_value, in_dim, DIM)
    if query_norm_ptr is not None:
        mean = (tl.sum(first * first, 1) + tl.sum(second * second, 1)) / DIM
        weight_ptr = tl.where(is_query, query_norm_ptr, key_norm_ptr)[:, None] + at
        scale = tl.rsqrt(mean + eps)[:, None]
        first *= scale * tl.load(weight_ptr, mask=inside, other=0.0).to(tl.float32)
        second *= scale * tl.load(weight_ptr + HALF, mask=inside, other=0.0).to(tl.float32)
    turned_first = first * cos - second * sin
    turned_second = second * cos + first * sin
    _write_rows(keys_ptr, key_scales_ptr, slot, turned_first, turned_second, at, is_key, in_dim, DIM)
    target = queries_ptr + (row * HEADS + head)[:, None] * DIM + at
    kind = queries_ptr.dtype.element_ty
    written = is_query[:, None] & in_dim
    tl.store(target, turned_first.to(kind), mask=written)
    tl.store(target + HALF, turned_second.to(kind), mask=written)


@triton.jit
def _write_rows(numbers_ptr, scales_ptr, slot, first, second, at, these, in_dim, DIM: tl.constexpr):
    """KVRows.write of these heads' rows, which come in halves."""
    if scales_ptr is not None:
        largest = tl.maximum(tl.max(tl.abs(first), 1), tl.max(tl.abs(second), 1))
        scale = tl.maximum(largest, _LEAST) / _LARGEST
        tl.store(scales_ptr + slot, scale, mask=these)
        first = tl.floor(first / scale[:, None] + 0.5)
        second = tl.floor(second / scale[:, None] + 0.5)
    target = numbers_ptr + slot[:, None] * DIM + at
    kind = numbers_ptr.dtype.element_ty
    written = these[:, None] & in_dim
    tl.store(target, first.to(kind), mask=written)
    tl.store(target + DIM // 2, second.to(kind), mask=written)
