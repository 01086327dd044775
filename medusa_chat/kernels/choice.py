"""From rows of logits to tokens on the device: each row's token, and the heads' best guesses."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_STRIP = 256  # of a row of logits, searched by one warp


def rank_guesses_reference(logits: torch.Tensor, num_ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(K, V) -> ids int64 and log-probabilities float32 (K, R) of each row's best, best first; of
    equals the first.
    """
    ordered = logits.sort(dim=-1, descending=True, stable=True)
    log_probs = ordered.values[:, :num_ranks] - logits.logsumexp(-1, keepdim=True)
    return ordered.indices[:, :num_ranks].contiguous(), log_probs.contiguous()


def rank_guesses(logits: torch.Tensor, num_ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As rank_guesses_reference, in two launches: the best of each strip of a row, then the best of those.

    A whole row in one program took 37 µs for five rows of 32,000 on an H100, each rank being a search
    through all of it by one processor.
    """
    num_rows, vocab_size = logits.shape
    num_strips = triton.cdiv(vocab_size, _STRIP)
    device = logits.device
    best = torch.empty(num_rows, num_strips, num_ranks, dtype=torch.float32, device=device)
    where = torch.empty(num_rows, num_strips, num_ranks, dtype=torch.int64, device=device)
    totals = torch.empty(num_rows, num_strips, dtype=torch.float32, device=device)
    ids = torch.empty(num_rows, num_ranks, dtype=torch.int64, device=device)
    log_probs = torch.empty(num_rows, num_ranks, dtype=torch.float32, device=device)
    _rank_strips_kernel[(num_rows, num_strips)](
        logits, best, where, totals, logits.stride(0), vocab_size, NUM_RANKS=num_ranks, STRIP=_STRIP,
        num_warps=1,
    )  # fmt: skip
    block = triton.next_power_of_2(num_strips * num_ranks)
    _rank_best_kernel[(num_rows,)](
        best, where, totals, ids, log_probs, num_strips,
        NUM_RANKS=num_ranks, RANKS_BLOCK=triton.next_power_of_2(num_ranks),
        BLOCK=block, STRIPS_BLOCK=triton.next_power_of_2(num_strips),
        num_warps=min(16, max(1, block // 512)),
    )  # fmt: skip
    return ids, log_probs


@triton.jit
def _rank_strips_kernel(
    logits_ptr, best_ptr, where_ptr, totals_ptr, row_stride, vocab_size,
    NUM_RANKS: tl.constexpr, STRIP: tl.constexpr,
):  # fmt: skip
    """A strip's best, best first, and the sum of exp(x - its largest)."""
    row, strip = tl.program_id(0), tl.program_id(1)
    at = strip * STRIP + tl.arange(0, STRIP)
    x = tl.load(logits_ptr + row.to(tl.int64) * row_stride + at, mask=at < vocab_size, other=-float("inf"))
    x = x.to(tl.float32)
    out = (row * tl.num_programs(1) + strip) * NUM_RANKS
    tl.store(totals_ptr + row * tl.num_programs(1) + strip, tl.sum(tl.exp(x - tl.max(x, 0)), 0))
    for rank in range(NUM_RANKS):
        best, place = tl.max(x, 0, return_indices=True, return_indices_tie_break_left=True)
        tl.store(best_ptr + out + rank, best)
        tl.store(where_ptr + out + rank, (strip * STRIP + place).to(tl.int64))
        x = tl.where(at == strip * STRIP + place, -float("inf"), x)


@triton.jit
def _rank_best_kernel(
    best_ptr, where_ptr, totals_ptr, ids_ptr, log_probs_ptr, num_strips,
    NUM_RANKS: tl.constexpr, RANKS_BLOCK: tl.constexpr, BLOCK: tl.constexpr, STRIPS_BLOCK: tl.constexpr,
):  # fmt: skip
    """The best of all strips' best, which are held in registers: no rank waits for memory."""
    row = tl.program_id(0)
    strip = tl.arange(0, STRIPS_BLOCK)
    there = strip < num_strips
    first = row * num_strips * NUM_RANKS
    tops = tl.load(best_ptr + first + strip * NUM_RANKS, mask=there, other=-float("inf"))
    totals = tl.load(totals_ptr + row * num_strips + strip, mask=there, other=0.0)
    top = tl.max(tops, 0)
    log_total = top + tl.log(tl.sum(totals * tl.exp(tops - top), 0))
    at = tl.arange(0, BLOCK)
    x = tl.load(best_ptr + first + at, mask=at < num_strips * NUM_RANKS, other=-float("inf"))
    ranks = tl.arange(0, RANKS_BLOCK)
    places = tl.zeros((RANKS_BLOCK,), tl.int32)
    bests = tl.zeros((RANKS_BLOCK,), tl.float32)
    for rank in range(NUM_RANKS):
        # Of equals the first: strips follow one another, and in each the first came first.
        best, place = tl.max(x, 0, return_indices=True, return_indices_tie_break_left=True)
        places = tl.where(ranks == rank, place, places)
        bests = tl.where(ranks == rank, best, bests)
        x = tl.where(at == place, -float("inf"), x)
    out = row * NUM_RANKS + ranks
    tokens = tl.load(where_ptr + first + places, mask=ranks < NUM_RANKS, other=0)
    tl.store(ids_ptr + out, tokens, mask=ranks < NUM_RANKS)
    tl.store(log_probs_ptr + out, bests - log_total, mask=ranks < NUM_RANKS)


def _num_warps(block: int) -> int:
    """A row is held in registers, if there are enough."""
    return min(32, max(4, block // 2048))


def choose_rows(
    logits: torch.Tensor,
    options: torch.Tensor,
    uniforms: torch.Tensor,
    length: torch.Tensor,
    depths: torch.Tensor,
) -> torch.Tensor:
    """logits (M, V) float32; options (4,) float32: temperature (0: greedy), top-k (0: off), top-p, min-p;
    uniforms (C,) float32 in [0, 1), one for each position; length (1,) int32 and depths (M,) int64, whose sum
    is a row's -> token ids (M,) int64, as decoding.sampling.choose_rows, whose test compares both.
    """
    num_rows, vocab_size = logits.shape
    ids = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    block = triton.next_power_of_2(vocab_size)
    _choose_rows_kernel[(num_rows,)](
        logits, options, uniforms, length, depths, ids, vocab_size, BLOCK=block, num_warps=_num_warps(block)
    )
    return ids


@triton.jit
def _ordered_bits(x):
    """float32 -> int32 in the same order."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _choose_rows_kernel(
    logits_ptr, options_ptr, uniforms_ptr, length_ptr, depths_ptr, ids_ptr, vocab_size, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    x = tl.load(logits_ptr + row * vocab_size + at, mask=at < vocab_size, other=-float("inf"))
    best, token = tl.max(x, 0, return_indices=True, return_indices_tie_break_left=True)
    temperature = tl.load(options_ptr)
    if temperature > 0.0:
        top_k = tl.load(options_ptr + 1)
        top_p = tl.load(options_ptr + 2)
        min_p = tl.load(options_ptr + 3)
        order = _ordered_bits(x)
        weights = tl.where(at < vocab_size, tl.exp((x - best) / temperature), 0.0)
        if top_k > 0.0:
            # The largest threshold that top_k tokens reach, found bit by bit.
            low, high = tl.min(tl.where(at < vocab_size, order, 0x7FFFFFFF), 0), tl.max(order, 0)
            for _ in range(32):
                middle = _between(low, high)
                enough = tl.sum((order >= middle).to(tl.float32), 0) >= top_k
                low = tl.where(enough, middle, low)
                high = tl.where(enough, high, tl.maximum(middle - 1, low))
            weights = tl.where(order >= low, weights, 0.0)
        if top_p < 1.0:
            needed = top_p * tl.sum(weights, 0)
            low, high = tl.min(tl.where(weights > 0.0, order, 0x7FFFFFFF), 0), tl.max(order, 0)
            for _ in range(32):
                middle = _between(low, high)
                enough = tl.sum(tl.where(order >= middle, weights, 0.0), 0) >= needed
                low = tl.where(enough, middle, low)
                high = tl.where(enough, high, tl.maximum(middle - 1, low))
            weights = tl.where(order >= low, weights, 0.0)
        weights = tl.where(weights >= min_p, weights, 0.0)  # the most probable weighs 1
        # The first token at which the running sum exceeds the uniform's share.
        position = tl.load(length_ptr) + tl.load(depths_ptr + row)
        share = tl.load(uniforms_ptr + position) * tl.sum(weights, 0)
        low, high = 0, tl.max(tl.where(weights > 0.0, at, 0), 0)
        for _ in range(20):
            middle = (low + high) // 2
            beyond = tl.sum(tl.where(at <= middle, weights, 0.0), 0) > share
            high = tl.where(beyond, middle, high)
            low = tl.where(beyond, low, tl.minimum(middle + 1, high))
        token = high
    tl.store(ids_ptr + row, token.to(tl.int64))


@triton.jit
def _between(low, high):
    """The middle of two int32, rounded up, without overflow."""
    return ((low.to(tl.int64) + high.to(tl.int64) + 1) >> 1).to(tl.int32)
