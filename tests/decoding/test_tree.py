"""Trees against literal values, and the search against brute force."""

from __future__ import annotations

from itertools import product

import pytest

from medusa_chat.decoding.tree import Tree, best_tree, expected_tokens, independent_paths, published_paths
from medusa_chat.errors import UsageError

# root ─ (0) ─ (0,0)
#      │     └ (0,1)
#      └ (2)
PATHS = [(0,), (2,), (0, 0), (0, 1)]


def test_a_small_tree() -> None:
    tree = Tree(PATHS)
    assert tree.paths == [(), (0,), (2,), (0, 0), (0, 1)]
    assert tree.parents == [-1, 0, 0, 1, 1]
    assert tree.depths == [0, 1, 1, 2, 2]
    assert tree.depth == 2
    assert tree.num_ranks == 3
    assert tree.children == [{0: 1, 2: 2}, {0: 3, 1: 4}, {}, {}, {}]


def test_the_root_alone_is_plain_decoding() -> None:
    tree = Tree()
    assert len(tree) == 1
    assert tree.depth == 0


def test_a_node_without_its_parent_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\[1, 0\] but not its parent \[1\]"):
        Tree([(0,), (1, 0)])


def test_independent_paths_are_the_most_probable_ones() -> None:
    accuracy = [[0.6, 0.2, 0.1], [0.5, 0.3, 0.1], [0.4, 0.2, 0.05]]
    everything = {}
    for depth in (1, 2, 3):
        for path in product(range(3), repeat=depth):
            probability = 1.0
            for head, rank in enumerate(path):
                probability *= accuracy[head][rank]
            everything[path] = probability
    for count in (1, 5, 12, 39):
        found = independent_paths(accuracy, count)
        assert len(found) == count
        best = sorted(everything.values(), reverse=True)[:count]
        assert sorted(found.values(), reverse=True) == pytest.approx(best)
        assert all(found[path] == pytest.approx(everything[path]) for path in found)


def test_best_tree_and_its_expectation() -> None:
    probability = {(0,): 0.5, (0, 0): 0.3, (1,): 0.2, (0, 1): 0.1, (1, 0): 0.05}
    tree = best_tree(probability, 4)
    assert tree.paths == [(), (0,), (1,), (0, 0)]
    assert expected_tokens(tree, probability) == pytest.approx(1 + 0.5 + 0.2 + 0.3)
    assert len(best_tree(probability, 1)) == 1
    assert len(best_tree(probability, 64)) == 6


def test_published_paths_stay_within_the_heads() -> None:
    for num_heads in (1, 2, 5, 7):
        tree = best_tree(published_paths(num_heads), 64)
        assert len(tree) == 64 if num_heads > 1 else len(tree) == 17
        assert tree.depth <= num_heads
    # Vicuna-7B's published accuracies give about what its authors' own run reached: 2.57 tokens a step.
    paths = published_paths(5)
    assert 2.2 < expected_tokens(best_tree(paths, 64), paths) < 2.9
