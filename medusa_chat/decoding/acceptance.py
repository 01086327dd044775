"""Which path of a verified draft is kept, and which token comes next.

Exact (lossless): at each node the base model's own next token is drawn; if the tree has it as a child, go
there, else that token is the next root. The emitted tokens are thereby distributed as in plain decoding,
whatever the tree holds; and as each of them takes exactly one number of a fixed row of uniform ones, the same
seed gives the same tokens.

Typical (paper, §2.3.1; lossy): a draft is kept if the base model finds it plausible enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from medusa_chat.decoding.draft import Draft
from medusa_chat.decoding.sampling import choose, greedy, probabilities
from medusa_chat.records import AcceptanceRule, SamplingOptions

POSTERIOR_THRESHOLD = 0.09  # the paper's ε
POSTERIOR_ALPHA = 0.3  # the paper's α


@dataclass(frozen=True, slots=True)
class Acceptance:
    """path: nodes kept, from the root down. next_root: the token that follows the last of them."""

    path: list[int]
    next_root: int


def accept_exact(
    logits: torch.Tensor, draft: Draft, options: SamplingOptions, uniforms: torch.Tensor
) -> Acceptance:
    """logits (N, V) of all nodes; uniforms (W,): the number for what follows each depth. Greedy at
    temperature 0.
    """
    # Greedy choices of all rows in one product and one read; draws only where the walk comes by.
    best = greedy(logits).tolist() if options.temperature == 0.0 else None
    walk, depth = Walk(draft), 0
    while True:
        token = best[walk.node] if best is not None else choose(logits[walk.node], options, uniforms[depth])
        if not walk.follow(token):
            return Acceptance(walk.path, token)
        depth += 1


class Walk:
    """From a draft's root down, along tokens as they are chosen. node: the last one reached, whose row of
    logits chooses the next token.
    """

    def __init__(self, draft: Draft) -> None:
        self._ids, self._parents = draft.ids.tolist(), draft.parents.tolist()
        self._reached = [0]  # all of one depth, and all the same text: siblings may hold the same token

    @property
    def node(self) -> int:
        return self._reached[0]

    @property
    def path(self) -> list[int]:
        """The nodes from the root down to the last one reached."""
        return _path(self._parents, self.node)

    def follow(self, token: int) -> bool:
        """Goes to the child that holds this token, if there is one."""
        nodes = range(self.node + 1, len(self._ids))
        children = [c for c in nodes if self._parents[c] in self._reached and self._ids[c] == token]
        self._reached = children or self._reached
        return bool(children)


def accept_on_device(
    chosen: torch.Tensor, draft: Draft
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """accept_exact without waiting for the device, once each row has its token: chosen (N,) int64.

    Returns path (W,), the nodes kept and then the last of them again; num_kept (); next_root (); emitted
    (W,), the tokens of the step: num_kept of them, the last being next_root, which then repeats itself.
    """
    is_right = draft.ids == chosen[draft.parents.clamp(min=0)]  # (N,)
    is_right = is_right | (draft.depths == 0)
    is_kept = is_right[draft.paths].all(1)  # itself and all its ancestors
    last = torch.where(is_kept, draft.depths, -1).argmax(0, keepdim=True)  # (1,): a () index would wait
    path = draft.paths[last][0]
    # What was chosen after each node kept is the next node's token, or the next root.
    emitted = chosen[path]
    return path, draft.depths[last][0] + 1, emitted[-1], emitted


def accept_typical(
    logits: torch.Tensor, draft: Draft, options: SamplingOptions, uniforms: torch.Tensor
) -> Acceptance:
    """As accept_exact. Keeps the longest path whose drafts x all have p(x) > min(ε, α · exp(-H(p))),
    with p at the temperature alone; among equals the one of highest probability. Greedy at temperature 0.
    """
    if options.temperature == 0.0:
        return accept_exact(logits, draft, options, uniforms)
    plain = SamplingOptions(temperature=options.temperature, top_p=1.0)
    ids, parents, depths = draft.ids.tolist(), draft.parents.tolist(), draft.depths.tolist()
    reached = {0: 1.0}  # node -> joint probability of its path
    for node in range(len(ids)):
        children = [child for child in range(node + 1, len(ids)) if parents[child] == node]
        if node not in reached or not children:
            continue
        probs = probabilities(logits[node], plain)
        threshold = typical_threshold(probs)
        for child in children:
            probability = float(probs[ids[child]])
            if probability > threshold:
                reached[child] = reached[node] * probability
    last = max(reached, key=lambda node: (depths[node], reached[node]))
    return Acceptance(_path(parents, last), choose(logits[last], options, uniforms[depths[last]]))


def typical_threshold(probs: torch.Tensor) -> float:
    """min(ε, α · exp(-H(p))) of one distribution (V,), H in nats."""
    entropy = torch.special.entr(probs).sum()
    return min(POSTERIOR_THRESHOLD, POSTERIOR_ALPHA * float(torch.exp(-entropy)))


def _path(parents: list[int], node: int) -> list[int]:
    """The nodes from the root down to this one."""
    path = [node]
    while (parent := parents[path[-1]]) >= 0:
        path.append(parent)
    return path[::-1]


Accept = Callable[[torch.Tensor, Draft, SamplingOptions, torch.Tensor], Acceptance]
ACCEPTANCE_RULES: dict[AcceptanceRule, Accept] = {"exact": accept_exact, "typical": accept_typical}
