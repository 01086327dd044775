"""A draft tree on the device, from path-aware heads' guesses to the nodes that a step verifies.

One launch where decoding/growth.py and decoding/draft.py, which say what is computed and are what the tests
compare with, take dozens: on a small model those would cost more than the step they are to save.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl


def enter_reference(
    state: torch.Tensor,
    rows: torch.Tensor,
    embedding: torch.Tensor,
    tokens: torch.Tensor,
    depth: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """state (B', D) float32; rows (B,): which of them go on; embedding (V, D); tokens (B,) that they go on
    with; depth (D,) -> those states (B, D) float32, and what the first layer sees, (B, 2D) in the dtype of
    the embedding: the norm of the state, and that of the token's embedding plus depth.
    """
    state, taken = state[rows], embedding[tokens].float()

    def norm(x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)

    return state, torch.cat([norm(state), norm(taken) + depth.float()], -1).to(embedding.dtype)


def enter(
    state: torch.Tensor,
    rows: torch.Tensor,
    embedding: torch.Tensor,
    tokens: torch.Tensor,
    depth: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As enter_reference, in one launch."""
    size, num_rows = embedding.shape[1], rows.shape[0]
    stream = torch.empty(num_rows, size, dtype=torch.float32, device=state.device)
    seen = torch.empty(num_rows, 2 * size, dtype=embedding.dtype, device=state.device)
    block = triton.next_power_of_2(size)
    _enter_kernel[(num_rows,)](
        state, rows, embedding, tokens, depth, stream, seen, size, eps,
        BLOCK=block, num_warps=min(16, max(4, block // 256)),
    )  # fmt: skip
    return stream, seen


@triton.jit
def _enter_kernel(
    state_ptr, rows_ptr, embedding_ptr, tokens_ptr, depth_ptr, stream_ptr, seen_ptr, size, eps,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < size
    x = tl.load(state_ptr + tl.load(rows_ptr + row) * size + at, mask=inside, other=0.0).to(tl.float32)
    token = tl.load(tokens_ptr + row)
    e = tl.load(embedding_ptr + token * size + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(stream_ptr + row * size + at, x, mask=inside)
    dtype = seen_ptr.dtype.element_ty
    normed = x * tl.rsqrt(tl.sum(x * x) / size + eps)
    tl.store(seen_ptr + row * 2 * size + at, normed.to(dtype), mask=inside)
    depth = tl.load(depth_ptr + at, mask=inside, other=0.0).to(tl.float32)
    normed = e * tl.rsqrt(tl.sum(e * e) / size + eps) + depth
    tl.store(seen_ptr + row * 2 * size + size + at, normed.to(dtype), mask=inside)


@dataclass(frozen=True, slots=True)
class Nodes:
    """C nodes as they grow, with what decoding's Weighed says of them: joint (C,) float32, ids, parents (C,)
    int64, ancestors (C, W) int64. What is not grown yet is undefined but for joint, -inf, and parents, C.
    """

    joint: torch.Tensor
    ids: torch.Tensor
    parents: torch.Tensor
    ancestors: torch.Tensor

    @classmethod
    def empty(cls, num_nodes: int, width: int, device: torch.device) -> Nodes:
        return cls(
            torch.full((num_nodes,), -torch.inf, device=device),
            torch.empty(num_nodes, dtype=torch.int64, device=device),
            torch.full((num_nodes,), num_nodes, dtype=torch.int64, device=device),
            torch.empty(num_nodes, width, dtype=torch.int64, device=device),
        )


@dataclass(frozen=True, slots=True)
class Beam:
    """The nodes that grow on: nodes, tokens (B,) int64; rows (B,) int64: whose state of the level before."""

    nodes: torch.Tensor
    tokens: torch.Tensor
    rows: torch.Tensor


def add_level(
    nodes: Nodes,
    beam: Beam,
    ranked: torch.Tensor,
    log_probs: torch.Tensor,
    vocabulary: torch.Tensor | None,
    depth: int,
    first: int,
    beam_size: int,
) -> Beam:
    """Enters the guesses below a beam as nodes, from number `first` on, and gives the next beam.

    ranked, log_probs (B, R): of each beam node's successors, numbers in the vocabulary (V',) if there is one.
    depth: of the beam; at 0 it is the root, which is entered too.
    """
    num_guesses = ranked.shape[1]
    taken = torch.empty(3, beam_size, dtype=torch.int64, device=ranked.device)
    _level_kernel[(1,)](
        nodes.joint, nodes.ids, nodes.parents, nodes.ancestors, beam.nodes, beam.tokens,
        ranked, log_probs, vocabulary, taken, first, ranked.numel(), depth,
        IS_ROOT=depth == 0, GUESSES=num_guesses, BEAM=beam_size, WIDTH=nodes.ancestors.shape[1],
        WIDTH_BLOCK=triton.next_power_of_2(nodes.ancestors.shape[1]),
        BLOCK=triton.next_power_of_2(ranked.numel()),
    )  # fmt: skip
    at, tokens, rows = taken.unbind()
    return Beam(at, tokens, rows)


@triton.jit
def _level_kernel(
    joint_ptr, ids_ptr, parents_ptr, lines_ptr, beam_ptr, tokens_ptr,
    ranked_ptr, log_probs_ptr, vocabulary_ptr, taken_ptr, first, num_new, depth,
    IS_ROOT: tl.constexpr, GUESSES: tl.constexpr, BEAM: tl.constexpr, WIDTH: tl.constexpr,
    WIDTH_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.arange(0, BLOCK)
    inside = at < num_new
    column = tl.arange(0, WIDTH_BLOCK)
    new = (first + at).to(tl.int64)
    token = tl.load(ranked_ptr + at, mask=inside, other=0)
    if vocabulary_ptr is not None:
        token = tl.load(vocabulary_ptr + token, mask=inside, other=0)
    joint = tl.minimum(tl.load(log_probs_ptr + at, mask=inside, other=-float("inf")), 0.0)
    cell = inside[:, None] & (column < WIDTH)[None, :]
    if IS_ROOT:
        parent = tl.zeros((BLOCK,), tl.int64)
        line = tl.zeros((BLOCK, WIDTH_BLOCK), tl.int64)
        tl.store(joint_ptr, 0.0)
        tl.store(ids_ptr, tl.load(tokens_ptr))
        tl.store(lines_ptr + column, tl.zeros((WIDTH_BLOCK,), tl.int64), mask=column < WIDTH)
    else:
        parent = tl.load(beam_ptr + at // GUESSES, mask=inside, other=0)
        joint += tl.load(joint_ptr + parent, mask=inside, other=0.0)
        line = tl.load(lines_ptr + parent[:, None] * WIDTH + column[None, :], mask=cell, other=0)
    line = tl.where(column[None, :] > depth, new[:, None], line)
    tl.store(joint_ptr + new, joint, mask=inside)
    tl.store(ids_ptr + new, token, mask=inside)
    tl.store(parents_ptr + new, parent, mask=inside)
    tl.store(lines_ptr + new[:, None] * WIDTH + column[None, :], line, mask=cell)
    left = tl.where(inside, joint, -float("inf"))
    for place in tl.static_range(BEAM):
        _, best = tl.max(left, 0, return_indices=True, return_indices_tie_break_left=True)
        tl.store(taken_ptr + place, (first + best).to(tl.int64))
        tl.store(taken_ptr + BEAM + place, tl.sum(tl.where(at == best, token, 0), 0))
        tl.store(taken_ptr + 2 * BEAM + place, (best // GUESSES).to(tl.int64))
        left = tl.where(at == best, -float("inf"), left)


@dataclass(frozen=True, slots=True)
class Chosen:
    """N nodes as decoding's Draft has them: ids, parents, depths (N,), paths (N, W) int64; expected (S + 1,)
    float32: tokens to expect of a draft of each of the sizes asked for, and the largest of the depths.
    """

    ids: torch.Tensor
    parents: torch.Tensor
    depths: torch.Tensor
    paths: torch.Tensor
    expected: torch.Tensor


def choose_nodes(
    nodes: Nodes,
    depths: torch.Tensor,
    chain: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
    num_heads: int,
    num_nodes: int,
    sizes: torch.Tensor,
) -> Chosen:
    """The num_nodes likeliest of C weighed nodes, a chain joined: decoding's make_pool and draft_best.

    depths (C,) int64: of the nodes. chain: its nodes (L,), tokens (L,), log-probabilities
    (L,) float32. num_heads: depths at which the chain's tokens may have been guessed. sizes (S,) int64.
    """
    device, total, width = depths.device, *nodes.ancestors.shape
    chain_nodes, chain_ids, chain_log_probs = chain if chain is not None else (None, None, None)
    chosen = torch.empty(3, num_nodes, dtype=torch.int64, device=device)
    paths = torch.empty(num_nodes, width, dtype=torch.int64, device=device)
    expected = torch.empty(len(sizes) + 1, dtype=torch.float32, device=device)
    scratch = torch.empty(total, dtype=torch.float32, device=device)
    numbers = torch.empty(total + 1, dtype=torch.int64, device=device)
    _choose_nodes_kernel[(1,)](
        nodes.joint, nodes.ids, nodes.parents, nodes.ancestors, depths,
        chain_nodes, chain_ids, chain_log_probs, sizes, scratch, numbers, chosen, paths, expected,
        TOTAL=total, NUM_NODES=num_nodes, WIDTH=width, WIDTH_BLOCK=triton.next_power_of_2(width),
        NUM_HEADS=num_heads, CHAIN=0 if chain_nodes is None else len(chain_nodes),
        NUM_SIZES=len(sizes), SIZES_BLOCK=triton.next_power_of_2(len(sizes)),
        BLOCK=triton.next_power_of_2(total), STRIP=32, num_warps=8,
    )  # fmt: skip
    ids, parents, chosen_depths = chosen.unbind()
    return Chosen(ids, parents, chosen_depths, paths, expected)


@triton.jit
def _choose_nodes_kernel(
    joint_ptr, ids_ptr, parents_ptr, lines_ptr, depths_ptr, chain_ptr, chain_ids_ptr, chain_log_probs_ptr,
    sizes_ptr, scratch_ptr, numbers_ptr, chosen_ptr, paths_ptr, expected_ptr,
    TOTAL: tl.constexpr, NUM_NODES: tl.constexpr, WIDTH: tl.constexpr, WIDTH_BLOCK: tl.constexpr,
    NUM_HEADS: tl.constexpr, CHAIN: tl.constexpr, NUM_SIZES: tl.constexpr, SIZES_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr, STRIP: tl.constexpr,
):  # fmt: skip
    at = tl.arange(0, BLOCK)
    inside = at < TOTAL
    joint = tl.load(joint_ptr + at, mask=inside, other=-float("inf"))
    ids = tl.load(ids_ptr + at, mask=inside, other=-1)
    parents = tl.load(parents_ptr + at, mask=inside, other=-1)
    depths = tl.load(depths_ptr + at, mask=inside, other=0)
    column = tl.arange(0, WIDTH_BLOCK)
    on_chain = inside & (parents == TOTAL) & (at > 0)
    spine = tl.zeros((WIDTH_BLOCK,), tl.int64)
    if CHAIN > 0:
        ids, joint, parents, spine = _join_chain(
            at, ids, joint, parents, depths, inside, on_chain, column,
            chain_ptr, chain_ids_ptr, chain_log_probs_ptr, NUM_HEADS, CHAIN, BLOCK,
        )  # fmt: skip
    rank = _ranks(at, joint, inside, scratch_ptr, TOTAL, BLOCK, STRIP)
    size = tl.arange(0, SIZES_BLOCK)
    wanted = tl.load(sizes_ptr + size, mask=size < NUM_SIZES, other=0)
    hopes = tl.where(inside[None, :] & (rank[None, :] < wanted[:, None]), tl.exp(joint)[None, :], 0.0)
    tl.store(expected_ptr + size, tl.sum(hopes, 1), mask=size < NUM_SIZES)
    chosen = inside & (rank < NUM_NODES)
    tl.store(expected_ptr + NUM_SIZES, tl.max(tl.where(chosen, depths, 0), 0).to(tl.float32))
    number = tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(numbers_ptr + at, tl.where(chosen, number, -1).to(tl.int64), mask=inside)
    tl.store(numbers_ptr + TOTAL, tl.full((), -1, tl.int64))
    tl.debug_barrier()
    tl.store(chosen_ptr + number, ids, mask=chosen)
    tl.store(chosen_ptr + NUM_NODES + number, tl.load(numbers_ptr + parents, mask=chosen), mask=chosen)
    tl.store(chosen_ptr + 2 * NUM_NODES + number, depths, mask=chosen)
    cell = chosen[:, None] & (column < WIDTH)[None, :]
    line = tl.load(lines_ptr + at[:, None] * WIDTH + column[None, :], mask=cell & ~on_chain[:, None], other=0)
    if CHAIN > 0:
        hung = tl.where(column[None, :] < depths[:, None], spine[None, :], at[:, None])
        line = tl.where(on_chain[:, None], hung, line)
    path = tl.load(numbers_ptr + line, mask=cell, other=0)
    tl.store(paths_ptr + number[:, None] * WIDTH + column[None, :], path, mask=cell)


@triton.jit
def _join_chain(
    at, ids, joint, parents, depths, inside, on_chain, column,
    chain_ptr, chain_ids_ptr, chain_log_probs_ptr,
    NUM_HEADS: tl.constexpr, CHAIN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What a chain changes of ids, joint and parents, and the nodes that hold its tokens, by depth."""
    # The chain's own nodes, each below the one before.
    place = depths - 1
    ids = tl.where(on_chain, tl.load(chain_ids_ptr + place, mask=on_chain, other=-1), ids)
    chances = tl.load(chain_log_probs_ptr + place, mask=on_chain, other=-float("inf"))
    joint = tl.where(on_chain & (place >= NUM_HEADS), chances, joint)
    before = tl.load(chain_ptr + place - 1, mask=on_chain & (place > 0), other=0)
    parents = tl.where(on_chain, before, parents)
    spine = tl.load(chain_ptr + column - 1, mask=(column > 0) & (column <= CHAIN), other=0)
    # But as long as one of the heads' nodes holds the chain's token below the one before, that one is it.
    last = tl.zeros((), tl.int64)
    for step in tl.static_range(NUM_HEADS):
        own = tl.load(chain_ptr + step)
        token = tl.load(chain_ids_ptr + step)
        chance = tl.load(chain_log_probs_ptr + step)
        parents = tl.where(at == own, last, parents)
        same = inside & (parents == last) & (ids == token)
        last = tl.min(tl.where(same, at, BLOCK), 0).to(tl.int64)  # own is the last of its depth
        joint = tl.where(at == last, tl.maximum(joint, chance), joint)
        spine = tl.where(column == step + 1, last, spine)
    if CHAIN > NUM_HEADS:
        parents = tl.where(at == tl.load(chain_ptr + NUM_HEADS), last, parents)
    return ids, joint, parents, spine


@triton.jit
def _ranks(at, joint, inside, scratch_ptr, TOTAL: tl.constexpr, BLOCK: tl.constexpr, STRIP: tl.constexpr):
    """By counting who is likelier; of equals the first, so that every parent ranks before its child."""
    tl.store(scratch_ptr + at, joint, mask=inside)
    tl.debug_barrier()
    rank = tl.zeros((BLOCK,), tl.int32)
    for start in tl.static_range(0, TOTAL, STRIP):
        # Down the first axis: each thread counts for nodes of its own, without asking others.
        other_at = start + tl.arange(0, STRIP)
        other = tl.load(scratch_ptr + other_at, mask=other_at < TOTAL, other=-float("inf"))
        before = (other[:, None] == joint[None, :]) & (other_at[:, None] < at[None, :])
        before = (before | (other[:, None] > joint[None, :])) & (other_at < TOTAL)[:, None]
        rank += tl.sum(before.to(tl.int32), 0)
    return rank
