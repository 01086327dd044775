"""One step's draft: a tree of tokens to verify together, as tensors.

Only torch operations whose shapes don't depend on data and that never wait for the device, so that a CUDA
graph can hold them: a draft's number of nodes N is fixed beforehand, which nodes it has is not.

Tokens per step on MT-Bench first turns (20, replies of 128 tokens, greedy), default model and its heads,
counted offline along the recorded replies:

    nodes                                          4      8     16     32     64
    static tree, the heads' own calibration     1.52   1.75   1.88   2.02   2.13
    dynamic                                     1.66   1.84   2.01   2.12   2.24
    dynamic, with a looked-up chain             1.84   2.14   2.41   2.57   2.73

The heads' own probabilities rank the nodes as they are: a temperature for each head lost up to 0.5%, mixing
in the calibrated path probabilities up to 2%, and 2048 candidate paths were no better than 256. The sum of
the nodes' probabilities is the tokens to expect: 2.20 against 2.18 at 16 nodes over all places of the
replies, and near in each fifth of them. Of the drafts expected at the places where steps begin 0.89 were
kept: a step begins where the one before went wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from medusa_chat.decoding.lookup import Chain
from medusa_chat.decoding.sampling import largest
from medusa_chat.decoding.tree import NodePath, Tree


@dataclass(frozen=True, slots=True)
class Draft:
    """N nodes in order of depth, node 0 the root; W = 1 + the largest depth there can be.

    ids (N,) int64: tokens. parents (N,) int64: -1 for the root. depths (N,) int64. paths (N, W) int64: each
    node's ancestor at each depth, and the node itself from its own depth on. Siblings may hold one token.
    looked_up (N,) bool: nodes that would not be here but for a chain, as are all below them; None where that
    is not known or can't be.
    """

    ids: torch.Tensor
    parents: torch.Tensor
    depths: torch.Tensor
    paths: torch.Tensor
    looked_up: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def visible(self) -> torch.Tensor:
        """(N, N) bool: a node sees its ancestors and itself."""
        visible = torch.zeros(len(self), len(self), dtype=torch.bool, device=self.ids.device)
        return visible.scatter(1, self.paths, torch.ones_like(self.paths, dtype=torch.bool))


class Frame(Protocol):
    """What is fixed of the C nodes that a draft chooses from, in order of depth.

    num_heads: K. max_depth: W - 1. depths (C,) int64. chain (L,) int64: nodes below the root for tokens that
    come from elsewhere, each the last of its depth.
    """

    num_heads: int
    max_depth: int
    depths: torch.Tensor
    chain: torch.Tensor

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Weighed:
    """What the heads make of a frame's nodes.

    joint (C,) float32: log-probability of a node's whole path, -inf on the chain. ids (C,) int64. parents
    (C,) int64: C for the root and the chain. ancestors (C, W) int64: as Draft.paths; nothing on the chain.
    """

    joint: torch.Tensor
    ids: torch.Tensor
    parents: torch.Tensor
    ancestors: torch.Tensor


class Candidates:
    """The frame of paths of guesses by heads that don't see them, as the tables that they are weighed by.

    parents, ancestors: as in Weighed. guesses (C, K) int64: which of the heads' K · R guesses stand on the
    node's path, K · R beyond its depth. sources (C,) int64: which of them is the node's token; K · R for the
    root, and for the chain, whose tokens are not known yet.
    """

    def __init__(
        self, paths: Iterable[NodePath], device: torch.device | str = "cpu", *, chain_length: int = 0
    ) -> None:
        """Takes paths of ranks; the root may be left out. A chain must be at least as long as the longest of
        them. Raises UsageError on a missing parent.
        """
        tree = Tree(paths)
        assert chain_length == 0 or chain_length >= tree.depth
        self.num_heads, self.num_ranks = tree.depth, tree.num_ranks  # K, R
        self.max_depth = max(tree.depth, chain_length)  # W - 1
        end = self.num_heads * self.num_ranks
        # Depth and path of each node, None on the chain, whose nodes are the last of their depths.
        nodes: list[tuple[int, NodePath | None]] = [(len(path), path) for path in tree.paths]
        nodes += [(depth, None) for depth in range(1, chain_length + 1)]
        nodes.sort(key=lambda node: (node[0], node[1] is None))
        number = {path: node for node, (_, path) in enumerate(nodes)}
        parents, ancestors, guesses, sources = [], [], [], []
        for depth, path in nodes:
            line = [number[path[:length]] for length in range(depth + 1)] if path is not None else [0]
            row = [head * self.num_ranks + rank for head, rank in enumerate(path or ())]
            parents.append(line[-2] if len(line) > 1 else len(nodes))
            ancestors.append([*line, *[line[-1]] * (self.max_depth + 1 - len(line))])
            guesses.append([*row, *[end] * (self.num_heads - len(row))])
            sources.append(row[-1] if row else end)

        def table(rows: object) -> torch.Tensor:
            return torch.tensor(rows, dtype=torch.long, device=device)

        self.depths = table([depth for depth, _ in nodes])
        self.parents = table(parents)
        self.ancestors = table(ancestors)
        self.guesses = table(guesses).view(len(nodes), self.num_heads)
        self.sources = table(sources)
        self.chain = table([node for node, (_, path) in enumerate(nodes) if path is None])

    def __len__(self) -> int:
        return self.depths.shape[0]


@dataclass(frozen=True, slots=True)
class Pool:
    """One step's candidates, best first: the first n of them are the best draft of n nodes.

    order (C,) int64: their numbers among the candidates. expected (C,) float32: tokens to expect of a step
    that drafts the first 1, 2, … of them. own (C,) float32: the candidates' joint before a chain joined. ids,
    parents (C,), ancestors (C, W): as in Weighed.
    """

    order: torch.Tensor
    expected: torch.Tensor
    own: torch.Tensor
    ids: torch.Tensor
    parents: torch.Tensor
    ancestors: torch.Tensor


def rank_guesses(head_logits: torch.Tensor, num_ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The heads' logits (K, V) -> ids and log-probabilities (K, R) of their R best guesses, best first."""
    log_probs, ids = largest(head_logits.float().log_softmax(-1), num_ranks)
    return ids, log_probs


def draft_static(candidates: Candidates, root: torch.Tensor, ranked_ids: torch.Tensor) -> Draft:
    """All candidates, of which none is a chain. root () int64: the token already decided. ranked_ids (K, R)
    int64.
    """
    ids = torch.cat([_used(ranked_ids, candidates), root.view(1)])[candidates.sources]
    parents = torch.where(candidates.depths > 0, candidates.parents, -1)
    return Draft(ids, parents, candidates.depths, candidates.ancestors)


def root_alone(token: int, device: torch.device | str = "cpu") -> Draft:
    """A draft of one node."""
    nothing = torch.empty(0, 0, dtype=torch.long, device=device)
    return draft_static(Candidates([], device), torch.tensor(token, device=device), nothing)


def weigh(
    candidates: Candidates, root: torch.Tensor, ranked_ids: torch.Tensor, ranked_log_probs: torch.Tensor
) -> Weighed:
    """root () int64: the token already decided; ranked_ids and ranked_log_probs (K, R): each head's guesses,
    best first.
    """
    log_probs = torch.cat([_used(ranked_log_probs, candidates), ranked_log_probs.new_zeros(1)])
    # Added up from the root on, so that rounding too leaves no child likelier than its parent.
    joint = log_probs.new_zeros(len(candidates))
    for head in range(candidates.num_heads):
        joint = joint + log_probs[candidates.guesses[:, head]]  # (C,)
    ids = torch.cat([_used(ranked_ids, candidates), root.view(1)])[candidates.sources]
    joint = joint.index_fill(0, candidates.chain, -torch.inf)
    return Weighed(joint, ids, candidates.parents, candidates.ancestors)


def make_pool(frame: Frame, weighed: Weighed, chain: Chain | None) -> Pool:
    """chain: if the frame has one, its L tokens, which join where they are likelier than the heads say."""
    joint, ids, parents, ancestors = weighed.joint, weighed.ids, weighed.parents, weighed.ancestors
    if chain is not None:
        nodes = frame.chain
        spine = _spine(frame, weighed, chain)  # (W,)
        joint = joint.scatter(0, spine[1:], torch.maximum(joint[spine[1:]], chain.log_probs))
        ids = ids.scatter(0, nodes, chain.ids)
        parents = parents.scatter(0, nodes, spine[:-1])
        depths = torch.arange(spine.shape[0], device=spine.device)  # (W,)
        lines = torch.where(depths < depths[1:, None], spine, nodes[:, None])  # (L, W)
        ancestors = ancestors.index_copy(0, nodes, lines)
    # No child is likelier than its parent, and equals keep their order: every parent comes before its child.
    joint, order = joint.sort(descending=True, stable=True)
    return Pool(order, joint.exp().cumsum(0), weighed.joint, ids, parents, ancestors)


def draft_best(pool: Pool, frame: Frame, num_nodes: int) -> Draft:
    """The first num_nodes of the pool."""
    chosen = pool.order[:num_nodes].sort().values  # (N,) in order of depth again
    node_of = chosen.new_full((len(frame) + 1,), -1)
    node_of = node_of.scatter(0, chosen, torch.arange(num_nodes, device=chosen.device))
    own = pool.own[chosen]
    # Without a chain, the heads' own best nodes would make the draft.
    looked_up = own.isinf() | (own < pool.own.topk(num_nodes).values[-1])
    return Draft(
        pool.ids[chosen],
        node_of[pool.parents[chosen]],
        frame.depths[chosen],
        node_of[pool.ancestors[chosen]],
        looked_up,
    )


def _spine(frame: Frame, weighed: Weighed, chain: Chain) -> torch.Tensor:
    """(W,) the nodes that hold the chain's tokens, after the root: as long as the heads guess the same, a
    path of theirs, so that no two nodes hold the same text; then the chain's own.
    """
    spine = [frame.chain.new_zeros(())]
    for depth in range(frame.num_heads):
        same = (weighed.parents == spine[-1]) & (weighed.ids == chain.ids[depth])  # (C,)
        spine.append(torch.where(same.any(), same.int().argmax(), frame.chain[depth]))
    return torch.cat([torch.stack(spine), frame.chain[frame.num_heads :]])


def _used(ranked: torch.Tensor, candidates: Candidates) -> torch.Tensor:
    """Of (K, R) or more guesses those that the candidates' tables count: (K · R,)."""
    return ranked[: candidates.num_heads, : candidates.num_ranks].flatten()
