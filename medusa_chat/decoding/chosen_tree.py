"""A draft tree of the user's choice: a published one by its name, or any that stands in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medusa_chat.decoding.published_trees import published_tree
from medusa_chat.decoding.tree import NodePath, Tree
from medusa_chat.errors import UsageError
from medusa_chat.records import BUILT_TREES, MAX_TREE_SIZE, PUBLISHED_TREES, SamplingOptions

_MAX_RANKS = 256  # more guesses of one head than any tree that pays
_FORM = "a tree file is a JSON list of paths of ranks, as [[0], [1], [0, 0]]"


def check_tree(choice: str) -> None:
    """Raises UsageError, as chosen_tree does, unless the engine makes that tree itself or it is there."""
    if choice not in BUILT_TREES:
        chosen_tree(choice)


def chosen_tree(choice: str) -> Tree:
    """choice: one of PUBLISHED_TREES, or a file that holds a JSON list of paths; the root may be left out.

    Raises UsageError, naming the file and what is wrong with it.
    """
    if choice in PUBLISHED_TREES:
        return published_tree(choice)
    file = Path(choice).expanduser()
    if not file.is_file():
        known = ", ".join((*BUILT_TREES, *PUBLISHED_TREES))
        raise UsageError(f"There is no draft tree {choice!r}, neither a file nor one of: {known}.")
    return _read_tree(file)


def asked_size(options: SamplingOptions) -> int | None:
    """The number of nodes that the options ask for, by itself or by a tree; None leaves it to the engine."""
    return options.tree_size if options.tree in BUILT_TREES else len(chosen_tree(options.tree))


def check_heads_reach(tree: Tree, choice: str, num_heads: int, num_tokens: int) -> None:
    """Raises UsageError if heads that guess among num_tokens guess fewer tokens ahead than the tree is deep,
    or among fewer than it has ranks.
    """
    advice = "choose a smaller one, or --tree dynamic."
    if tree.depth > num_heads:
        heads = f"there are only {num_heads} heads" if num_heads else "there are no heads"
        raise UsageError(f"The tree {choice} is {tree.depth} deep, but {heads}; {advice}")
    if tree.num_ranks > num_tokens:
        raise UsageError(
            f"The tree {choice} has the rank {tree.num_ranks - 1}, "
            f"but the heads guess among only {num_tokens} tokens; {advice}"
        )


def _read_tree(file: Path) -> Tree:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}.") from None
    except (ValueError, RecursionError):  # neither JSON nor UTF-8
        raise UsageError(f"{file} is not JSON; {_FORM}.") from None
    if not isinstance(content, list):
        raise UsageError(f"{file} holds no list; {_FORM}.")
    paths = [_checked_path(entry, file) for entry in content]
    try:
        tree = Tree(paths)
    except UsageError as error:
        raise UsageError(f"{file} is no tree. {error}") from None
    if not 1 < len(tree) <= MAX_TREE_SIZE:
        raise UsageError(
            f"{file} has {len(tree) - 1} nodes besides the root; "
            f"a tree has between 1 and {MAX_TREE_SIZE - 1}."
        )
    return tree


def _checked_path(entry: Any, file: Path) -> NodePath:
    ranks = entry if isinstance(entry, list) else [None]
    if not all(type(rank) is int and 0 <= rank < _MAX_RANKS for rank in ranks):
        shown = json.dumps(entry)[:40]
        raise UsageError(
            f"{file} has the path {shown}, but ranks are whole numbers from 0 to {_MAX_RANKS - 1}; {_FORM}."
        )
    return tuple(ranks)
