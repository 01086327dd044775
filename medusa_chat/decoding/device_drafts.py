"""A step's draft by kernels that take one launch each, for CUDA graphs; else as proposing.py and draft.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from medusa_chat.decoding.draft import Candidates, Draft
from medusa_chat.decoding.growth import Growth, num_guesses
from medusa_chat.decoding.lookup import Chain
from medusa_chat.kernels.choice import rank_guesses
from medusa_chat.kernels.growing import Beam, Nodes, add_level, choose_nodes
from medusa_chat.kernels.weighing import weigh_nodes
from medusa_chat.model.fused import FusedModel
from medusa_chat.model.fused_path_heads import FusedPathHeads
from medusa_chat.model.heads import MedusaHeads


def draft_on_device(
    frame: Candidates | Growth,
    base: FusedModel,
    heads: MedusaHeads | None,
    hidden: torch.Tensor,
    root: torch.Tensor,
    chain: Callable[[], Chain | None],
    num_nodes: int,
    sizes: tuple[int, ...],
) -> tuple[Draft, torch.Tensor]:
    """The best num_nodes of the frame; and how many tokens to expect of drafts of these sizes, and the
    depth of this one: (S + 1,) float32.

    hidden (1, D): of the last token before the root, root (1,) int64. chain: asked for when the heads have
    guessed.
    """
    if isinstance(frame, Growth):
        assert isinstance(heads, FusedPathHeads)
        nodes = _grow(frame, base, heads, hidden, root)
    else:
        nodes = _weigh(frame, base, heads, hidden, root)
    found = chain()
    chosen = choose_nodes(
        nodes,
        frame.depths,
        None if found is None else (frame.chain, found.ids, found.log_probs),
        frame.num_heads,
        num_nodes,
        _sizes(sizes, frame.depths.device),
    )
    return Draft(chosen.ids, chosen.parents, chosen.depths, chosen.paths), chosen.expected


def _grow(
    growth: Growth, base: FusedModel, heads: FusedPathHeads, hidden: torch.Tensor, root: torch.Tensor
) -> Nodes:
    """As growth.grow."""
    nodes = Nodes.empty(len(growth), growth.max_depth + 1, root.device)
    zero = growth.depths[:1]
    state, beam = hidden, Beam(zero, root, zero)
    for depth, level in enumerate(growth.levels):
        state, logits = heads.go_on(state, beam.rows, beam.tokens, depth, base)
        ranked, log_probs = rank_guesses(logits, num_guesses(depth))
        found = ranked, log_probs, heads.vocabulary
        beam = add_level(nodes, beam, *found, depth, level.start, growth.beam)
    return nodes


def _weigh(
    candidates: Candidates,
    base: FusedModel,
    heads: MedusaHeads | None,
    hidden: torch.Tensor,
    root: torch.Tensor,
) -> Nodes:
    """As draft.weigh, of what the heads guess."""
    ranked, log_probs = root[:0], root[:0].float()
    if heads is not None and candidates.num_heads > 0:
        logits = heads.logits(hidden, base)[: candidates.num_heads]
        ranked, log_probs = rank_guesses(logits, candidates.num_ranks)
    vocabulary = None if heads is None else heads.vocabulary
    tables = candidates.guesses, candidates.sources
    joint, ids = weigh_nodes(*tables, root, ranked, log_probs, vocabulary)
    return Nodes(joint, ids, candidates.parents, candidates.ancestors)


@cache
def _sizes(sizes: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(sizes, device=device)
