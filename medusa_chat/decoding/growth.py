"""Drafts of heads that see the path so far: grown level by level, one batch of states for each.

At each level the likeliest nodes so far, the beam, are taken as far as the next one, as EAGLE-2 does it.
Which nodes the draft then holds is decided when all are known (draft.py). As there, only torch operations of
fixed shapes that never wait for the device.

Tokens per step on held-out dialogues of the default model (heads of two layers, halfway trained) by beam x
guesses of each: 8 nodes 2.59 with all of 4 x 4 to 16 x 16; 16 nodes 2.92, 2.93; 32 nodes 3.15 with 4 x 4,
3.17 with 4 x 8, 3.18 with 8 x 4, 3.20 with 16 x 8 and 16 x 16; 64 nodes 3.26, 3.33, 3.35, 3.43, 3.43.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from medusa_chat.decoding.draft import Candidates, Draft, Pool, join_chain, make_draft, make_pool
from medusa_chat.decoding.lookup import Chain
from medusa_chat.model.base import BaseModel
from medusa_chat.model.path_heads import PathHeads

_FIRST = 16  # guesses of what follows the root
_BEAM = 8
_GUESSES = 8  # of each node of the beam

# Logits (n, V) and a number of ranks -> ids and log-probabilities (n, R), best first.
Rank = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]


class Growth:
    """The frame of C nodes that K heads grow, in order of depth: the root, 16 nodes, 64 at each further
    depth, and at each depth up to L one node of a chain.

    depths (C,) int64. chain (L,) int64: the chain's nodes. levels: of each depth that is grown, its first
    node. order (C,) int64: the nodes behind one another as grow puts them together: root, levels, chain.
    """

    def __init__(self, num_heads: int, device: torch.device | str = "cpu", *, chain_length: int = 0) -> None:
        assert chain_length == 0 or chain_length >= num_heads
        self.num_heads = num_heads
        self.max_depth = max(num_heads, chain_length)  # W - 1
        depths, self.levels, chain, grown = [0], [], [], [0]
        for depth in range(1, self.max_depth + 1):
            size = 0 if depth > num_heads else _FIRST if depth == 1 else _BEAM * _GUESSES
            if size:
                self.levels.append(len(depths))
                grown += range(len(depths), len(depths) + size)
            if depth <= chain_length:
                chain.append(len(depths) + size)
            depths += [depth] * (size + (depth <= chain_length))
        self.depths = torch.tensor(depths, device=device)
        self.chain = torch.tensor(chain, dtype=torch.long, device=device)
        self.order = torch.tensor([*grown, *chain], device=device).argsort()

    def __len__(self) -> int:
        return self.depths.shape[0]


def grow(
    growth: Growth,
    base: BaseModel,
    heads: PathHeads,
    hidden: torch.Tensor,
    root: torch.Tensor,
    chain: Callable[[], Chain] | None,
    rank: Rank,
) -> Pool:
    """hidden (1, D): of the last token before the root. root () int64: the token already decided. chain: if
    the growth has one, its L tokens, asked for when all levels are grown.
    """
    columns = torch.arange(growth.max_depth + 1, device=root.device)  # (W,)
    # The beam: states (B, D), tokens, log-probabilities, nodes (B,), their lines of ancestors (B, W).
    state, tokens, joint = hidden, root.view(1), hidden.new_zeros(1, dtype=torch.float32)
    nodes, line = columns[:1], columns[None] * 0
    grown = [_Level(tokens, joint, nodes + len(growth), line)]
    for depth, first in enumerate(growth.levels):
        state = heads.advance(state, base.embed(tokens), depth)  # (B, D)
        num_guesses = _GUESSES if depth else _FIRST
        ranked, log_probs = rank(heads.shared_logits(state, base).float(), num_guesses)  # (B, R)
        new = torch.arange(first, first + ranked.numel(), device=root.device)  # (B · R,)
        level = _Level(
            heads.tokens(ranked).flatten(),
            (joint[:, None] + log_probs.clamp_max(0.0)).flatten(),
            nodes.repeat_interleave(num_guesses),
            torch.where(columns > depth, new[:, None], line.repeat_interleave(num_guesses, 0)),
        )
        grown.append(level)
        if depth + 1 < len(growth.levels):
            joint, best = level.joint.topk(_BEAM)
            state, tokens = state[best // num_guesses], level.ids[best]
            nodes, line = new[best], level.lines[best]
    if chain is None:
        whole = _Level.joined(grown)
        return make_pool(whole.joint, whole.ids, whole.parents, whole.lines)
    return _pool_with_chain(growth, grown, chain())


@dataclass(frozen=True, slots=True)
class _Level:
    """n nodes: ids, joint (log-probabilities), parents (n,), lines (n, W) of ancestors."""

    ids: torch.Tensor
    joint: torch.Tensor
    parents: torch.Tensor
    lines: torch.Tensor

    @classmethod
    def joined(cls, levels: Sequence[_Level]) -> _Level:
        return cls(
            torch.cat([level.ids for level in levels]),
            torch.cat([level.joint for level in levels]),
            torch.cat([level.parents for level in levels]),
            torch.cat([level.lines for level in levels]),
        )


def _pool_with_chain(growth: Growth, grown: Sequence[_Level], chain: Chain) -> Pool:
    nodes = growth.chain
    # Where the chain's tokens stand: as long as they were grown, in a path of those; then the chain's own.
    spine = [nodes.new_zeros(())]
    for depth, (first, level) in enumerate(zip(growth.levels, grown[1:], strict=True)):
        same = (level.parents == spine[-1]) & (level.ids == chain.ids[depth])
        spine.append(torch.where(same.any(), first + same.int().argmax(), nodes[depth]))
    spine += nodes[len(growth.levels) :].unbind()
    own = _Level(
        chain.ids, chain.log_probs, nodes, nodes[:, None].expand(-1, len(spine))
    )  # but for ids, join_chain fills in what it is
    whole = _Level.joined([*grown, own])
    joint, parents, lines = join_chain(
        whole.joint[growth.order],
        whole.parents[growth.order],
        whole.lines[growth.order],
        torch.stack(spine),
        nodes,
        chain,
    )
    return make_pool(joint, whole.ids[growth.order], parents, lines)


class GrownTree(Candidates):
    """A static tree for heads that see the path: a node's rank is among the guesses that follow its parent.

    inner: for each depth but the last, the nodes (n,) that have children. below: all nodes (m,) of the next
    depth. slots: where those nodes' tokens stand among the n · R guesses. parents_of: which of the inner
    nodes each inner node of the next depth hangs from.
    """

    def __init__(self, candidates: Candidates) -> None:
        vars(self).update(vars(candidates))
        depths, parents = self.depths.tolist(), self.parents.tolist()
        ranks = (self.sources % max(1, self.num_ranks)).tolist()
        with_children = set(parents[1:])
        self.inner, self.below, self.slots, self.parents_of = [], [], [], []
        inner: list[int] = []
        for depth in range(self.max_depth):
            before = {node: place for place, node in enumerate(inner)}
            inner = [node for node in sorted(with_children) if depths[node] == depth]
            place = {node: number for number, node in enumerate(inner)}
            below = [node for node, at in enumerate(depths) if at == depth + 1]
            self.parents_of.append(self._table([before.get(parents[node], 0) for node in inner]))
            self.inner.append(self._table(inner))
            self.below.append(self._table(below))
            self.slots.append(
                self._table([place[parents[node]] * self.num_ranks + ranks[node] for node in below])
            )

    def _table(self, numbers: list[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.depths.device)


def draft_grown(
    tree: GrownTree,
    base: BaseModel,
    heads: PathHeads,
    hidden: torch.Tensor,
    root: torch.Tensor,
    rank: Rank,
) -> Draft:
    """All nodes of a static tree. hidden (1, D); root () int64."""
    ids = root.repeat(len(tree))
    state = hidden
    for depth, inner in enumerate(tree.inner):
        state = heads.advance(state[tree.parents_of[depth]], base.embed(ids[inner]), depth)  # (n, D)
        ranked, _ = rank(heads.shared_logits(state, base).float(), tree.num_ranks)  # (n, R)
        tokens = heads.tokens(ranked).flatten()
        ids = ids.index_copy(0, tree.below[depth], tokens[tree.slots[depth]])
    parents = torch.where(tree.depths > 0, tree.parents, -1)
    return make_draft(ids, parents, tree.depths, tree.ancestors)
