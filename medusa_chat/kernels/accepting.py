"""Acceptance on the device in one launch: which path is kept, and what the step leaves for the next one.

What is accepted is decoding/acceptance.py's accept_on_device, which the tests compare with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl


@dataclass(frozen=True, slots=True)
class StepState:
    """What one step leaves for the next: root (1,) int64, hidden (1, D) of the token before it, length (1,)
    int32 of what is committed, text (capacity,) int64: the conversation, the root its last token.
    """

    root: torch.Tensor
    hidden: torch.Tensor
    length: torch.Tensor
    text: torch.Tensor


def accept(
    chosen: torch.Tensor,
    ids: torch.Tensor,
    parents: torch.Tensor,
    depths: torch.Tensor,
    paths: torch.Tensor,
    hidden: torch.Tensor,
    state: StepState,
    expected: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Renews the state, and gives path, before and result.

    chosen (N,): the base model's token after each node; ids … paths: as decoding's Draft; hidden (N, D);
    expected (S,) float32. path (W,) int64: the nodes kept and then the last of them again. before (1,) int32:
    what was committed until now. result (1 + W + S,) float64: how many nodes are kept, the tokens that the
    step brought, of which the last repeats itself, and expected.
    """
    num_nodes, width = paths.shape
    path = torch.empty(width, dtype=torch.int64, device=ids.device)
    result = torch.empty(1 + width + len(expected), dtype=torch.float64, device=ids.device)
    before = torch.empty(1, dtype=torch.int32, device=ids.device)
    scratch = torch.empty(num_nodes, dtype=torch.int32, device=ids.device)
    _accept_kernel[(1,)](
        chosen, ids, parents, depths, paths, hidden, expected,
        state.root, state.hidden, state.length, state.text, path, before, result, scratch,
        hidden.shape[1],
        NUM_NODES=num_nodes, BLOCK=max(2, triton.next_power_of_2(num_nodes)),
        WIDTH=width, WIDTH_BLOCK=triton.next_power_of_2(width),
        SIZES=len(expected), SIZES_BLOCK=max(2, triton.next_power_of_2(len(expected))),
        HIDDEN_BLOCK=triton.next_power_of_2(hidden.shape[1]),
    )  # fmt: skip
    return path, before, result


@triton.jit
def _accept_kernel(
    chosen_ptr, ids_ptr, parents_ptr, depths_ptr, paths_ptr, hidden_ptr, expected_ptr,
    root_ptr, last_hidden_ptr, length_ptr, text_ptr, path_ptr, before_ptr, result_ptr, scratch_ptr,
    hidden_size,
    NUM_NODES: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, WIDTH_BLOCK: tl.constexpr,
    SIZES: tl.constexpr, SIZES_BLOCK: tl.constexpr, HIDDEN_BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.arange(0, BLOCK)
    inside = at < NUM_NODES
    column = tl.arange(0, WIDTH_BLOCK)
    wide = column < WIDTH
    parents = tl.maximum(tl.load(parents_ptr + at, mask=inside, other=0), 0)
    depths = tl.load(depths_ptr + at, mask=inside, other=0)
    wanted = tl.load(chosen_ptr + parents, mask=inside, other=0)
    is_right = (tl.load(ids_ptr + at, mask=inside, other=0) == wanted) | (depths == 0)
    tl.store(scratch_ptr + at, is_right.to(tl.int32), mask=inside)
    tl.debug_barrier()
    # A node is kept if it and all its ancestors are right.
    cell = inside[:, None] & wide[None, :]
    lines = tl.load(paths_ptr + at[:, None] * WIDTH + column[None, :], mask=cell, other=0)
    is_kept = tl.min(tl.load(scratch_ptr + lines, mask=cell, other=1), 1) > 0
    reached = tl.where(inside & is_kept, depths, -1).to(tl.int32)
    deepest, last = tl.max(reached, 0, return_indices=True, return_indices_tie_break_left=True)
    path = tl.load(paths_ptr + last * WIDTH + column, mask=wide, other=0)
    tl.store(path_ptr + column, path, mask=wide)
    # What was chosen after each node kept is the next node's token, or the next root.
    emitted = tl.load(chosen_ptr + path, mask=wide, other=0)
    length = tl.load(length_ptr)
    tl.store(text_ptr + length + 1 + column, emitted, mask=wide)
    tl.store(root_ptr, tl.load(chosen_ptr + last))
    tl.store(before_ptr, length)
    tl.debug_barrier()  # all threads have read it
    tl.store(length_ptr, length + deepest + 1)
    tl.store(result_ptr, (deepest + 1).to(tl.float64))
    tl.store(result_ptr + 1 + column, emitted.to(tl.float64), mask=wide)
    if SIZES > 0:
        size = tl.arange(0, SIZES_BLOCK)
        hopes = tl.load(expected_ptr + size, mask=size < SIZES, other=0.0)
        tl.store(result_ptr + 1 + WIDTH + size, hopes.to(tl.float64), mask=size < SIZES)
    feature = tl.arange(0, HIDDEN_BLOCK)
    real = feature < hidden_size
    kept = tl.load(hidden_ptr + last * hidden_size + feature, mask=real, other=0.0)
    tl.store(last_hidden_ptr + feature, kept, mask=real)
