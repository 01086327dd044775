"""How often heads are right: per head and rank, and along paths, which is what trees are chosen by."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

from medusa_chat.decoding.tree import MAX_PATHS, NodePath
from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.training.dialogues import Dialogues
from medusa_chat.training.targets import Targets, gather_targets

_MAX_RANK = 10
_TOKENS = 4096  # of a forward
_ROWS = 256  # whose logits exist at once


@dataclass(frozen=True, slots=True)
class HeadAccuracy:
    """top: {1, 3, 5, 10} -> P(right among so many guesses) of each head. path_probability: how often the
    greedy continuation is exactly this path of guesses, for the most frequent ones. num_rows: measured on.
    """

    top: dict[int, list[float]]
    path_probability: dict[NodePath, float]
    num_rows: int


@torch.no_grad()
def measure_accuracy(base: BaseModel, heads: MedusaHeads, dialogues: Dialogues) -> HeadAccuracy:
    """On the greedy answers of these dialogues, of which there must be some. heads must be in the base's
    dtype and on its device.
    """
    ids, answer = dialogues.ids[dialogues.greedy], dialogues.answer[dialogues.greedy]
    at_once = max(1, _TOKENS // ids.shape[1])
    parts = zip(torch.split(ids, at_once), torch.split(answer, at_once), strict=True)
    return summarise(torch.cat([_ranks(base, heads, *part) for part in parts]))


def summarise(ranks: torch.Tensor) -> HeadAccuracy:
    """Of the ranks (n, K) that rank_targets gives."""
    top = {count: [_share(column, count) for column in ranks.T] for count in (1, 3, 5, 10)}
    return HeadAccuracy(top, _path_probability(ranks.tolist()), len(ranks))


def _share(ranks: torch.Tensor, count: int) -> float:
    """How many of the known ranks are below count; 0 where none is known."""
    known = ranks[ranks >= 0]
    return float((known < count).sum() / max(1, len(known)))


def _ranks(base: BaseModel, heads: MedusaHeads, ids: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    hidden = base.hidden_states(ids.to(base.device))
    return rank_targets(base, heads, gather_targets(hidden, ids, answer, heads.num_heads))


@torch.no_grad()
def rank_targets(base: BaseModel, heads: MedusaHeads, targets: Targets) -> torch.Tensor:
    """(n, K) rank of the true token among each head's guesses, given the true path so far; _MAX_RANK beyond
    that and outside the heads' vocabulary; -1 past the answer.
    """
    number = torch.arange(base.vocab_size, device=base.device)  # of each token among the guesses
    if heads.vocabulary is not None:
        number = torch.full_like(number, -1)
        number[heads.vocabulary] = torch.arange(len(heads.vocabulary), device=base.device)
    parts = []
    for rows in torch.split(torch.arange(targets.hidden.shape[0], device=base.device), _ROWS):
        states = heads.rows(targets.hidden[rows], base.embed(targets.path[:, rows]))  # (K, rows, D)
        logits = heads.logits_of(states, base)  # (K, rows, V')
        wanted = number[targets.ids[:, rows]]
        true = logits.gather(2, wanted.clamp_min(0)[..., None])
        parts.append((logits > true).sum(-1).clamp_max(_MAX_RANK).masked_fill(wanted < 0, _MAX_RANK))
    ranks = torch.cat(parts, dim=1) if parts else torch.empty(heads.num_heads, 0, dtype=torch.long)
    return ranks.masked_fill(~targets.valid, -1).T.cpu()


def _path_probability(ranks: list[list[int]]) -> dict[NodePath, float]:
    counts: Counter[NodePath] = Counter()
    for row in ranks:
        path: NodePath = ()
        for rank in row:
            if not 0 <= rank < _MAX_RANK:
                break
            path = (*path, rank)
            counts[path] += 1
    # Prefixes first among equals, so that the most frequent ones always form a tree.
    ranked = sorted(counts, key=lambda path: (-counts[path], len(path), path))
    return {path: counts[path] / len(ranks) for path in ranked[:MAX_PATHS]}
