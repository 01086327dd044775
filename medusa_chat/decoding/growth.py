"""Drafts of heads that see the path so far: grown level by level, one batch of states for each.

At each level the likeliest nodes so far, the beam, are taken as far as the next one, as EAGLE-2 does it.
Which nodes the draft then holds is decided when all are known (draft.py). As there, only torch operations of
fixed shapes that never wait for the device; but on a CPU, which has nobody to wait for, growing ends where no
deeper node could be among those that are wanted.

Tokens per step on held-out dialogues of the default model (heads of two layers, halfway trained) by beam x
guesses of each: 8 nodes 2.59 with all of 4 x 4 to 16 x 16; 16 nodes 2.92, 2.93; 32 nodes 3.15 with 4 x 4,
3.17 with 4 x 8, 3.18 with 8 x 4, 3.20 with 16 x 8 and 16 x 16; 64 nodes 3.26, 3.33, 3.35, 3.43, 3.43.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from medusa_chat.decoding.draft import Candidates, Draft, Weighed
from medusa_chat.model.base import BaseModel
from medusa_chat.model.path_heads import PathHeads

_FIRST = 16  # guesses of what follows the root
_BEAM = 8
_CPU_BEAM = 4  # rows cost time there, and trees are small: 8 nodes lose nothing by it
_GUESSES = 8  # of each node of the beam

# Logits (n, V) and a number of ranks -> ids and log-probabilities (n, R), best first.
Rank = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]


def num_guesses(depth: int) -> int:
    """Of each node at this depth that grows on."""
    return _GUESSES if depth else _FIRST


class Growth:
    """The frame of what K heads grow: 16 nodes below the root, 8 for each of the beam at each further depth,
    and at each depth up to L one node of a chain. levels: of each depth that is grown, its nodes.
    """

    def __init__(self, num_heads: int, device: torch.device | str = "cpu", *, chain_length: int = 0) -> None:
        assert chain_length == 0 or chain_length >= num_heads
        self.num_heads = num_heads
        self.beam = _CPU_BEAM if torch.device(device).type == "cpu" else _BEAM
        self.max_depth = max(num_heads, chain_length)
        self.levels: list[range] = []
        depths, chain = [0], []
        for depth in range(1, self.max_depth + 1):
            size = 0 if depth > num_heads else num_guesses(depth - 1) * (self.beam if depth > 1 else 1)
            self.levels += [range(len(depths), len(depths) + size)] if size else []
            if depth <= chain_length:
                chain.append(len(depths) + size)
            depths += [depth] * (size + (depth <= chain_length))
        self.depths = torch.tensor(depths, device=device)
        self.chain = torch.tensor(chain, dtype=torch.long, device=device)

    def __len__(self) -> int:
        return self.depths.shape[0]


def grow(
    growth: Growth,
    base: BaseModel,
    heads: PathHeads,
    hidden: torch.Tensor,
    root: torch.Tensor,
    rank: Rank,
    num_wanted: int | None = None,
) -> Weighed:
    """hidden (1, D): of the last token before the root. root () int64: the token already decided. num_wanted:
    nodes of which a draft is to be made; None: all.
    """
    size, columns = len(growth), torch.arange(growth.max_depth + 1, device=root.device)  # (W,)
    grown = Weighed(
        hidden.new_full((size,), -torch.inf, dtype=torch.float32),
        root.repeat(size),
        torch.full_like(growth.depths, size),
        torch.zeros_like(growth.depths)[:, None].repeat(1, len(columns)),
    )
    grown.joint[0] = 0.0
    # The beam: states (B, D) and nodes (B,).
    state, beam = hidden, columns[:1]
    for depth, level in enumerate(growth.levels):
        state = heads.advance(state, base.embed(grown.ids[beam]), depth)  # (B, D)
        guesses = num_guesses(depth)
        ranked, log_probs = rank(heads.shared_logits(state, base).float(), guesses)  # (B, R)
        new = torch.arange(level.start, level.stop, device=root.device)  # (B · R,)
        parents = beam.repeat_interleave(guesses)
        joint = grown.joint[parents] + log_probs.flatten().clamp_max(0.0)
        of_level = slice(level.start, level.stop)
        grown.joint[of_level] = joint
        grown.ids[of_level] = heads.tokens(ranked).flatten()
        grown.parents[of_level] = parents
        grown.ancestors[of_level] = torch.where(columns > depth, new[:, None], grown.ancestors[parents])
        best = joint.topk(min(growth.beam, len(level)))
        # None that follows is likelier than what it follows.
        if num_wanted is not None and (grown.joint >= best.values[0]).sum() >= num_wanted:
            break
        state, beam = state[best.indices // guesses], new[best.indices]
    return grown


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
    return Draft(ids, parents, tree.depths, tree.ancestors)
