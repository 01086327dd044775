"""Whose guess each token of a step was: a head's, the conversation's own, or nobody's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medusa_chat.decoding.draft import Draft
from medusa_chat.records import BASE_ORIGIN, LOOKUP_ORIGIN


def origins_of(draft: Draft, path: Sequence[int]) -> tuple[list[int], int]:
    """path: nodes kept, from the root down. Origins of the tokens that the step brings, which are those
    nodes' but the root's, and the next root; and the depth of the deepest draft by a head.

    A draft is a head's unless it stands in the tree for the sake of what was looked up alone.
    """
    origins = draft.depths
    if draft.looked_up is not None:
        origins = torch.where(draft.looked_up, LOOKUP_ORIGIN, origins)
    of_nodes = origins.tolist()
    return [*(of_nodes[node] for node in path[1:]), BASE_ORIGIN], max(of_nodes)


def origins_by_depth(num_drafts: int, num_heads: int) -> list[int]:
    """As above where only the number of drafts kept is known: what lies deeper than heads reach was looked
    up; above that heads are credited with everything.
    """
    return [
        *(depth if depth <= num_heads else LOOKUP_ORIGIN for depth in range(1, num_drafts + 1)),
        BASE_ORIGIN,
    ]
