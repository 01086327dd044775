"""What heads that see no path make of a draft's candidates, in one launch.

What is computed is decoding/draft.py's weigh, which the tests compare with.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def weigh_nodes(
    guesses: torch.Tensor,
    sources: torch.Tensor,
    root: torch.Tensor,
    ranked: torch.Tensor,
    log_probs: torch.Tensor,
    vocabulary: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """ranked int64, log_probs float32 (K, R): each head's best guesses, numbers in the vocabulary (V',) if
    there is one; root (1,) int64. guesses (C, K) int64: which of the K * R stand on a node's path, K * R
    beyond its depth; sources (C,): which of them is its token, K * R for the root, node 0, and for a chain.

    Gives joint (C,) float32, -inf on the chain, and ids (C,) int64.
    """
    num_nodes, num_heads = guesses.shape
    joint = torch.empty(num_nodes, dtype=torch.float32, device=root.device)
    ids = torch.empty(num_nodes, dtype=torch.int64, device=root.device)
    _weigh_kernel[(triton.cdiv(num_nodes, 64),)](
        guesses, sources, root, ranked, log_probs, vocabulary, joint, ids, num_nodes,
        NUM_HEADS=num_heads, NUM_GUESSES=ranked.numel(), BLOCK=64, num_warps=2,
    )  # fmt: skip
    return joint, ids


@triton.jit
def _weigh_kernel(
    guesses_ptr, sources_ptr, root_ptr, ranked_ptr, log_probs_ptr, vocabulary_ptr, joint_ptr, ids_ptr,
    num_nodes,
    NUM_HEADS: tl.constexpr, NUM_GUESSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < num_nodes
    joint = tl.zeros((BLOCK,), tl.float32)
    # Added up from the root on, so that rounding too leaves no child likelier than its parent.
    for head in tl.static_range(NUM_HEADS):
        guess = tl.load(guesses_ptr + at * NUM_HEADS + head, mask=inside, other=NUM_GUESSES)
        joint += tl.load(log_probs_ptr + guess, mask=guess < NUM_GUESSES, other=0.0)
    source = tl.load(sources_ptr + at, mask=inside, other=NUM_GUESSES)
    guessed = source < NUM_GUESSES
    token = tl.load(ranked_ptr + source, mask=guessed, other=0)
    if vocabulary_ptr is not None:
        token = tl.load(vocabulary_ptr + token, mask=guessed, other=0)
    tl.store(ids_ptr + at, tl.where(guessed, token, tl.load(root_ptr)), mask=inside)
    tl.store(joint_ptr + at, tl.where(guessed | (at == 0), joint, -float("inf")), mask=inside)
