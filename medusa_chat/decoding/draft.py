"""One step's draft: a tree of tokens to verify together, as tensors.

Only torch operations whose shapes don't depend on data and that never wait for the device, so that a CUDA
graph can hold them: a draft's number of nodes N is fixed beforehand, which nodes it has is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from medusa_chat.decoding.tree import NodePath, Tree


@dataclass(frozen=True, slots=True)
class Draft:
    """N nodes in order of depth, node 0 the root; W = 1 + the largest depth there can be.

    ids (N,) int64: tokens. parents (N,) int64: -1 for the root. depths (N,) int64. visible (N, N) bool: a
    node sees its ancestors and itself. paths (N, W) int64: each node's ancestor at each depth, and the node
    itself from its own depth on. Siblings may hold the same token.
    """

    ids: torch.Tensor
    parents: torch.Tensor
    depths: torch.Tensor
    visible: torch.Tensor
    paths: torch.Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]


class Candidates:
    """C nodes, among which a draft chooses, as the tables that it reads them from; in order of depth.

    parents (C,) int64: C for the root. depths (C,) int64. ancestors (C, W) int64: as Draft.paths.
    guesses (C, K) int64: which of the heads' K · R guesses stand on the node's path, K · R beyond its depth.
    own (C,) int64: the last of them, K · R for the root.
    """

    def __init__(self, paths: Iterable[NodePath], device: torch.device | str = "cpu") -> None:
        """Takes paths of ranks; the root may be left out. Raises UsageError on a missing parent."""
        tree = Tree(paths)
        self.num_heads, self.num_ranks = tree.depth, tree.num_ranks  # K, R
        end = self.num_heads * self.num_ranks
        ancestors = [_line(tree, node) for node in range(len(tree))]
        guesses = [[depth * self.num_ranks + rank for depth, rank in enumerate(path)] for path in tree.paths]

        def table(rows: object) -> torch.Tensor:
            return torch.tensor(rows, dtype=torch.long, device=device)

        self.parents = table([len(tree), *tree.parents[1:]])
        self.depths = table(tree.depths)
        self.ancestors = table([[*line, *[line[-1]] * (tree.depth + 1 - len(line))] for line in ancestors])
        self.guesses = table([[*row, *[end] * (self.num_heads - len(row))] for row in guesses]).view(
            len(tree), self.num_heads
        )
        self.own = table([end, *(row[-1] for row in guesses[1:])])

    def __len__(self) -> int:
        return self.depths.shape[0]


def rank_guesses(head_logits: torch.Tensor, num_ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The heads' logits (K, V) -> ids and log-probabilities (K, R) of their R best guesses, best first."""
    head_logits = head_logits.float()
    best = head_logits.topk(num_ranks)
    return best.indices, best.values - head_logits.logsumexp(-1, keepdim=True)


def draft_static(candidates: Candidates, root: torch.Tensor, ranked_ids: torch.Tensor) -> Draft:
    """All candidates. root () int64: the token already decided. ranked_ids (K, R) int64."""
    ids = torch.cat([_used(ranked_ids, candidates), root.view(1)])[candidates.own]
    parents = torch.where(candidates.depths > 0, candidates.parents, -1)
    return _draft(ids, parents, candidates.depths, candidates.ancestors)


def draft_dynamic(
    root: torch.Tensor,
    ranked_ids: torch.Tensor,
    ranked_log_probs: torch.Tensor,
    candidates: Candidates,
    num_nodes: int,
) -> Draft:
    """The num_nodes ≤ C candidates (root included) of highest joint probability at this very step.

    root () int64; ranked_ids and ranked_log_probs (K, R): each head's guesses, best first.
    """
    log_probs = torch.cat([_used(ranked_log_probs, candidates), ranked_log_probs.new_zeros(1)])
    # Added up from the root on, so that rounding too leaves no child likelier than its parent; and as equals
    # keep their order, every parent comes along.
    joint = sum(log_probs[candidates.guesses].unbind(-1), torch.zeros_like(log_probs[:1]))  # (C,)
    best = joint.sort(descending=True, stable=True).indices[:num_nodes]
    chosen = best.sort().values  # (N,) in order of depth again
    node_of = chosen.new_full((len(candidates) + 1,), -1)
    node_of = node_of.scatter(0, chosen, torch.arange(num_nodes, device=chosen.device))
    ids = torch.cat([_used(ranked_ids, candidates), root.view(1)])[candidates.own[chosen]]
    return _draft(
        ids,
        node_of[candidates.parents[chosen]],
        candidates.depths[chosen],
        node_of[candidates.ancestors[chosen]],
    )


def _used(ranked: torch.Tensor, candidates: Candidates) -> torch.Tensor:
    """Of (K, R) or more guesses those that the candidates' tables count: (K · R,)."""
    return ranked[: candidates.num_heads, : candidates.num_ranks].flatten()


def _draft(ids: torch.Tensor, parents: torch.Tensor, depths: torch.Tensor, paths: torch.Tensor) -> Draft:
    nodes = torch.arange(ids.shape[0], device=ids.device)
    visible = (paths[:, :, None] == nodes).any(1)  # (N, N)
    return Draft(ids, parents, depths, visible, paths)


def _line(tree: Tree, node: int) -> list[int]:
    """The nodes from the root down to this one."""
    line = [node]
    while (parent := tree.parents[line[-1]]) >= 0:
        line.append(parent)
    return line[::-1]
