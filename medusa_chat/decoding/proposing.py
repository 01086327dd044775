"""From a hidden state to a step's draft, with heads of any kind or none; eagerly or within a CUDA graph."""

from __future__ import annotations

import torch

from medusa_chat.decoding.draft import Candidates, Draft, Weighed, draft_static, weigh
from medusa_chat.decoding.growth import GrownTree, Growth, Rank, draft_grown, grow
from medusa_chat.decoding.lookup import MAX_CHAIN
from medusa_chat.decoding.tree import NodePath, published_paths
from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.path_heads import PathHeads


def dynamic_candidates(
    heads: MedusaHeads | None, device: torch.device | str = "cpu", *, chain: bool = True
) -> Candidates | Growth:
    """All that a dynamic draft chooses among: what may be worth a node with these heads, and a chain."""
    chain_length = MAX_CHAIN if chain else 0
    if heads is not None and heads.sees_path:
        return Growth(heads.num_heads, device, chain_length=chain_length)
    paths = published_paths(0 if heads is None else heads.num_heads)
    return Candidates(paths, device, chain_length=chain_length)


def static_candidates(
    heads: MedusaHeads | None, paths: list[NodePath], device: torch.device | str = "cpu"
) -> Candidates:
    """A static tree of these paths of guesses."""
    candidates = Candidates(paths, device)
    return GrownTree(candidates) if heads is not None and heads.sees_path else candidates


def propose(
    frame: Candidates | Growth,
    base: BaseModel,
    heads: MedusaHeads | None,
    hidden: torch.Tensor,
    root: torch.Tensor,
    rank: Rank,
    num_wanted: int | None = None,
) -> Weighed:
    """What the heads make of the frame, or of its num_wanted likeliest nodes at least. hidden (1, D): of the
    last token before the root, root () int64.
    """
    if isinstance(frame, Growth):
        assert isinstance(heads, PathHeads)
        if heads.grows_at_once:
            from medusa_chat.decoding.lean_drafts import grow_at_once  # with a compiler, for CPUs alone

            return grow_at_once(frame, base, heads, hidden, root, num_wanted)
        return grow(frame, base, heads, hidden, root, rank, num_wanted)
    return weigh(frame, root, *_guesses(frame, base, heads, hidden, rank))


def propose_static(
    candidates: Candidates,
    base: BaseModel,
    heads: MedusaHeads | None,
    hidden: torch.Tensor,
    root: torch.Tensor,
    rank: Rank,
) -> Draft:
    """All candidates, of which none is a chain; arguments as above."""
    if isinstance(candidates, GrownTree):
        assert isinstance(heads, PathHeads)
        return draft_grown(candidates, base, heads, hidden, root, rank)
    return draft_static(candidates, root, _guesses(candidates, base, heads, hidden, rank)[0])


def _guesses(
    candidates: Candidates,
    base: BaseModel,
    heads: MedusaHeads | None,
    hidden: torch.Tensor,
    rank: Rank,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each head's best guesses: ids and log-probabilities (K, R)."""
    if heads is None or candidates.num_heads == 0:
        nothing = torch.empty(0, 0, device=hidden.device)
        return nothing.long(), nothing
    logits = heads.logits(hidden, base)[: candidates.num_heads]
    ids, log_probs = rank(logits.float(), candidates.num_ranks)
    return heads.tokens(ids), log_probs
