"""Published trees by the facts known of them, tree files by every way they can be wrong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from medusa_chat.decoding.chosen_tree import asked_size, check_heads_reach, check_tree, chosen_tree
from medusa_chat.errors import UsageError
from medusa_chat.records import PUBLISHED_TREES, SamplingOptions

NODES_PER_DEPTH = {
    "mc_sim_7b_63": [10, 28, 23, 2],
    "vicuna_7b_stage1": [10, 32, 20, 1],
    "vicuna_7b_stage2": [10, 23, 23, 7],
    "zephyr_stage2": [10, 27, 23, 3],
}


@pytest.mark.parametrize("name", PUBLISHED_TREES)
def test_published_trees_are_as_published(name: str) -> None:
    tree = chosen_tree(name)
    assert (len(tree), tree.num_ranks) == (64, 10)
    counts = Counter(tree.depths)
    assert tree.depth == 4 or name == "vicuna_33b_stage1"
    if name in NODES_PER_DEPTH:
        assert [counts[depth] for depth in range(1, 5)] == NODES_PER_DEPTH[name]


def test_single_paths_of_published_trees() -> None:
    assert {(0, 0, 0, 1), (9, 0), (1, 6), (0, 7, 0)} <= set(chosen_tree("mc_sim_7b_63").paths)
    assert {(0, 0, 1, 1), (1, 0, 0, 0)} <= set(chosen_tree("vicuna_13b_stage2").paths)
    assert (1, 7) in chosen_tree("vicuna_33b_stage1").paths


def test_a_tree_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tree.json"
    file.write_text("[[0], [1], [0, 3], []]")
    assert chosen_tree(str(file)).paths == [(), (0,), (1,), (0, 3)]
    assert asked_size(SamplingOptions(tree=str(file))) == 4
    assert asked_size(SamplingOptions(tree_size=8)) == 8


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[[0], [1", "is not JSON; a tree file is a JSON list of paths"),
        ("[" * 100_000, "is not JSON"),
        ('{"tree": [[0]]}', "holds no list"),
        ("[]", "has 0 nodes besides the root; a tree has between 1 and 63"),
        (json.dumps([[rank] for rank in range(64)]), "has 64 nodes besides the root"),
        ("[[0], [1, 0]]", r"is no tree. The tree has the node \[1, 0\] but not its parent \[1\]"),
        ("[0, 1]", "has the path 0, but ranks are whole numbers"),
        ("[[0], [0, -1]]", r"has the path \[0, -1\]"),
        ("[[true]]", r"has the path \[true\]"),
        ("[[0.0]]", r"has the path \[0.0\]"),
        ("[[1000000000]]", "ranks are whole numbers from 0 to 255"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "tree.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=sentence) as error:
        check_tree(str(file))
    assert str(error.value).startswith(str(file))


def test_an_unknown_tree_is_refused() -> None:
    check_tree("dynamic")
    with pytest.raises(UsageError, match="no draft tree 'mc_sim', neither a file nor one of: dynamic"):
        check_tree("mc_sim")


def test_a_tree_deeper_than_the_heads_is_refused() -> None:
    tree = chosen_tree("mc_sim_7b_63")
    check_heads_reach(tree, "mc_sim_7b_63", 4, 10)
    with pytest.raises(UsageError, match="mc_sim_7b_63 is 4 deep, but there are only 3 heads"):
        check_heads_reach(tree, "mc_sim_7b_63", 3, 10)
    with pytest.raises(UsageError, match="there are no heads"):
        check_heads_reach(tree, "mc_sim_7b_63", 0, 10)


def test_a_tree_wider_than_the_heads_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match="has the rank 9, but the heads guess among only 9 tokens"):
        check_heads_reach(chosen_tree("zephyr_stage2"), "zephyr_stage2", 5, 9)


def test_a_tree_of_its_own_size_takes_no_other() -> None:
    with pytest.raises(ValueError, match="mc_sim_7b_63 has a size of its own"):
        SamplingOptions(tree="mc_sim_7b_63", tree_size=8)
