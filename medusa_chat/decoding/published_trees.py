"""The draft trees that were published with Medusa, by the names they have there.

The facts are those of `medusa/model/medusa_choices.py` in github.com/FasterDecoding/Medusa; the form is ours.
Siblings of all of them are best guesses without a gap, so numbers of children tell everything: depth by
depth, one number a node in the order of their paths, noughts at the end left out.
"""

from __future__ import annotations

from itertools import zip_longest

from medusa_chat.decoding.tree import NodePath, Tree

_CHILDREN = {
    "mc_sim_7b_63": "10 | 10 7 3 2 1 1 1 1 1 1 | 10 3 2 1 1 1 1 1 0 0 2 0 0 0 0 0 0 1 | 2",
    "vicuna_7b_stage1": "10 | 10 7 4 3 2 2 1 1 1 1 | 9 3 2 1 1 1 0 0 0 0 2 0 0 0 0 0 0 1 | 1",
    "vicuna_7b_stage1_ablation": (
        "10 | 10 4 2 2 1 1 1 | 10 4 2 1 1 1 0 0 0 0 3 1 0 0 1 0 1 | 4 1 1 0 0 0 0 0 0 0 1"
    ),
    "vicuna_7b_stage2": "10 | 10 5 2 2 1 1 1 1 | 9 4 2 1 1 1 0 0 0 0 3 1 0 0 0 1 | 4 1 1 0 0 0 0 0 0 1",
    "vicuna_13b_stage1": "10 | 10 7 4 2 2 1 1 1 1 | 10 4 2 1 1 1 0 0 0 0 2 1 0 0 0 0 0 1 | 1",
    "vicuna_13b_stage2": (
        "10 | 10 4 2 1 1 1 | 10 4 2 1 1 1 0 0 0 0 3 1 0 0 1 0 1 | 4 2 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0 0 1"
    ),
    "vicuna_33b_stage1": "10 | 10 8 5 3 2 2 1 1 1 1 | 9 3 2 1 1 0 0 0 0 0 2 0 0 0 0 0 0 0 1",
    "vicuna_33b_stage2": "10 | 10 5 3 2 1 1 1 1 | 10 4 2 1 1 1 0 0 0 0 3 1 0 0 0 1 | 3 1 0 0 0 0 0 0 0 0 1",
    "zephyr_stage2": "10 | 10 6 4 2 2 1 1 1 | 10 4 2 1 1 1 0 0 0 0 2 1 0 0 0 0 1 | 2 1",
}


def published_tree(name: str) -> Tree:
    """One of records.PUBLISHED_TREES: 63 nodes and the root, at most 4 deep."""
    paths: list[NodePath] = []
    level: list[NodePath] = [()]
    for counts in _CHILDREN[name].split(" | "):
        numbered = zip_longest(level, map(int, counts.split()), fillvalue=0)
        level = [(*parent, rank) for parent, count in numbered for rank in range(count)]  # type: ignore[misc]
        paths += level
    return Tree(paths)
