"""The rows of an accepted path, moved to the end of what is committed."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def keep_path_reference(store: torch.Tensor, length: torch.Tensor, path: torch.Tensor) -> None:
    """store (…, G, capacity, d), whole or only its first rows; length (1,) int32: rows committed; path (W,)
    int64, ascending: of the rows behind those, the ones that become the next W.
    """
    places = length + torch.arange(len(path), device=path.device)
    store.index_copy_(-2, places, store.index_select(-2, length + path))


def keep_path(store: torch.Tensor, length: torch.Tensor, path: torch.Tensor) -> None:
    """As keep_path_reference, in one launch."""
    capacity, dim = store.shape[-2:]
    block = triton.next_power_of_2(len(path)), triton.next_power_of_2(dim)
    _keep_kernel[(store.numel() // (capacity * dim),)](
        store, length, path, store.stride(-3) // dim, len(path),
        DIM=dim, BLOCK=block[0], BLOCK_DIM=block[1], num_warps=4,
    )  # fmt: skip


@triton.jit(do_not_specialize=["part_rows"])
def _keep_kernel(
    store_ptr, length_ptr, path_ptr, part_rows, width,
    DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    """One program reads all rows of its part of the store before it writes any: they may be the same."""
    part = store_ptr + tl.program_id(0).to(tl.int64) * part_rows * DIM
    length = tl.load(length_ptr).to(tl.int64)
    at, dim = tl.arange(0, BLOCK), tl.arange(0, BLOCK_DIM)
    cell = (at < width)[:, None] & (dim < DIM)[None, :]
    rows = length + tl.load(path_ptr + at, mask=at < width, other=0)
    kept = tl.load(part + rows[:, None] * DIM + dim[None, :], mask=cell, other=0)
    tl.debug_barrier()
    tl.store(part + (length + at)[:, None] * DIM + dim[None, :], kept, mask=cell)
