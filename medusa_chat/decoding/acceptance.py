"""Which path of a verified tree is kept, and which token comes next.

Exact (lossless): at each node the base model's own next token is drawn; if the tree has it as a child, go
there, else that token is the next root. The emitted tokens are thereby distributed as in plain decoding,
whatever the tree holds; and as each of them takes exactly one draw, the same seed gives the same tokens.

Typical (paper, §2.3.1; lossy): a draft is kept if the base model finds it plausible enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from medusa_chat.decoding.sampling import choose, greedy, probabilities
from medusa_chat.decoding.tree import Tree
from medusa_chat.records import AcceptanceRule, SamplingOptions

POSTERIOR_THRESHOLD = 0.09  # the paper's ε
POSTERIOR_ALPHA = 0.3  # the paper's α


@dataclass(frozen=True, slots=True)
class Acceptance:
    """path: nodes kept, from the root down. next_root: the token that follows the last of them."""

    path: list[int]
    next_root: int


def accept_exact(
    logits: torch.Tensor,
    tree: Tree,
    ids: torch.Tensor,
    options: SamplingOptions,
    generator: torch.Generator | None,
) -> Acceptance:
    """logits (N, V) of all nodes, ids (N,) their tokens. Greedy at temperature 0."""
    tokens = ids.tolist()
    # Greedy choices of all rows in one product and one read; draws only where the walk comes by.
    best = greedy(logits).tolist() if options.temperature == 0.0 else None
    path = [0]
    while True:
        node = path[-1]
        token = best[node] if best is not None else choose(logits[node], options, generator)
        child = next((c for c in tree.children[node].values() if tokens[c] == token), None)
        if child is None:
            return Acceptance(path, token)
        path.append(child)


def accept_typical(
    logits: torch.Tensor,
    tree: Tree,
    ids: torch.Tensor,
    options: SamplingOptions,
    generator: torch.Generator | None,
) -> Acceptance:
    """As accept_exact. Keeps the longest path whose drafts x all have p(x) > min(ε, α · exp(-H(p))),
    with p at the temperature alone; among equals the one of highest probability. Greedy at temperature 0.
    """
    if options.temperature == 0.0:
        return accept_exact(logits, tree, ids, options, generator)
    plain = SamplingOptions(temperature=options.temperature, top_p=1.0)
    tokens = ids.tolist()
    reached = {0: 1.0}  # node -> joint probability of its path
    for node in range(len(tree)):
        if node not in reached or not tree.children[node]:
            continue
        probs = probabilities(logits[node], plain)
        threshold = typical_threshold(probs)
        for child in tree.children[node].values():
            probability = float(probs[tokens[child]])
            if probability > threshold:
                reached[child] = reached[node] * probability
    last = max(reached, key=lambda node: (tree.depths[node], reached[node]))
    path = []
    node = last
    while node >= 0:
        path.append(node)
        node = tree.parents[node]
    return Acceptance(path[::-1], choose(logits[last], options, generator))


def typical_threshold(probs: torch.Tensor) -> float:
    """min(ε, α · exp(-H(p))) of one distribution (V,), H in nats."""
    entropy = torch.special.entr(probs).sum()
    return min(POSTERIOR_THRESHOLD, POSTERIOR_ALPHA * float(torch.exp(-entropy)))


Accept = Callable[[torch.Tensor, Tree, torch.Tensor, SamplingOptions, torch.Generator | None], Acceptance]
ACCEPTANCE_RULES: dict[AcceptanceRule, Accept] = {"exact": accept_exact, "typical": accept_typical}
