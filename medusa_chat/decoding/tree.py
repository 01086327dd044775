"""Draft trees: which of the heads' guesses are verified together (paper, §2.1.2 and §2.3.3).

A node is named by its path of ranks: (0,) is head 1's best guess, (2, 1) is head 2's second-best guess
below head 1's third. The root, the empty path (), is the token already decided.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

from medusa_chat.errors import UsageError

NodePath = tuple[int, ...]
# How often the base model's next tokens are exactly the heads' guesses along a path.
PathProbability = Mapping[NodePath, float]

MAX_PATHS = 256  # kept of a calibration; the largest tree has 63 besides the root

# Top-1 and top-5 of the published Vicuna-7B heads (paper, appendix); a power law fills in the rest.
_PUBLISHED_TOP1_TOP5 = ((0.56, 0.78), (0.32, 0.56), (0.20, 0.42), (0.15, 0.34), (0.12, 0.30))
_NUM_RANKS = 16  # with 10, the likeliest 64 of real heads were 3% worse


class Tree:
    """A draft tree of N nodes in order of depth; node 0 is the root.

    paths: node -> path. parents: node -> node, -1 for the root. depths: node -> length of its path.
    children: node -> {rank: node}.
    """

    def __init__(self, paths: Iterable[NodePath] = ()) -> None:
        """Takes the paths of all nodes; the root may be left out. Raises UsageError on a missing parent."""
        self.paths: list[NodePath] = sorted({(), *map(tuple, paths)}, key=lambda path: (len(path), path))
        index = {path: node for node, path in enumerate(self.paths)}
        orphans = [path for path in self.paths[1:] if path[:-1] not in index]
        if orphans:
            raise UsageError(
                f"The tree has the node {list(orphans[0])} but not its parent {list(orphans[0][:-1])}."
            )
        self.parents = [-1, *(index[path[:-1]] for path in self.paths[1:])]
        self.depths = [len(path) for path in self.paths]
        self.children: list[dict[int, int]] = [{} for _ in self.paths]
        for node, path in enumerate(self.paths[1:], start=1):
            self.children[self.parents[node]][path[-1]] = node

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def depth(self) -> int:
        """Heads needed."""
        return self.depths[-1]

    @property
    def num_ranks(self) -> int:
        """Guesses needed of each head."""
        return 1 + max((path[-1] for path in self.paths[1:]), default=-1)


def best_tree(path_probability: PathProbability, num_nodes: int) -> Tree:
    """The tree of num_nodes nodes (root included) that keeps most tokens per step: the most probable paths.

    No path is more probable than its parent, so the result is a tree by itself.
    """
    ranked = sorted(path_probability, key=lambda path: (-path_probability[path], len(path), path))
    return Tree(ranked[: num_nodes - 1])


def expected_tokens(tree: Tree, path_probability: PathProbability) -> float:
    """Tokens per step to expect: the root's successor, and each node as often as its path is right."""
    return 1.0 + sum(path_probability.get(path, 0.0) for path in tree.paths[1:])


def independent_paths(rank_accuracy: Sequence[Sequence[float]], num_paths: int) -> dict[NodePath, float]:
    """The num_paths most probable paths if heads were right independently of each other.

    rank_accuracy[k][i] = P(head k's i-th guess is the base model's choice), falling in i. The paper's greedy
    expansion (§2.3.3): from the root, each time add the neighbour (next sibling or first child) with the
    largest product along its path.
    """
    found: dict[NodePath, float] = {}
    frontier: list[tuple[float, NodePath]] = [(-rank_accuracy[0][0], (0,))] if rank_accuracy else []
    while frontier and len(found) < num_paths:
        negative, path = heapq.heappop(frontier)
        found[path] = -negative
        depth, rank = len(path), path[-1]
        parent = found.get(path[:-1], 1.0)
        if rank + 1 < len(rank_accuracy[depth - 1]):
            heapq.heappush(frontier, (-parent * rank_accuracy[depth - 1][rank + 1], (*path[:-1], rank + 1)))
        if depth < len(rank_accuracy):
            heapq.heappush(frontier, (negative * rank_accuracy[depth][0], (*path, 0)))
    return found


def published_paths(num_heads: int) -> dict[NodePath, float]:
    """For heads that bring no calibration of their own: as if they were the published Vicuna-7B ones."""
    rank_accuracy = []
    for head in range(num_heads):
        top1, top5 = _PUBLISHED_TOP1_TOP5[min(head, len(_PUBLISHED_TOP1_TOP5) - 1)]
        weights = [rank**-1.5 for rank in range(1, _NUM_RANKS)]
        scale = (top5 - top1) / sum(weights[:4])
        rank_accuracy.append([top1, *(scale * weight for weight in weights)])
    return independent_paths(rank_accuracy, MAX_PATHS)
