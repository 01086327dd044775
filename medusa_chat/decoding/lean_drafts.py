"""Growth's drafts on a CPU, all levels in one call of compiled code."""

from __future__ import annotations

import torch

from medusa_chat.decoding.draft import Weighed
from medusa_chat.decoding.growth import Growth
from medusa_chat.kernels.cpu.drafting import DraftFrame
from medusa_chat.model.base import BaseModel
from medusa_chat.model.lean_heads import LeanPathHeads
from medusa_chat.model.path_heads import PathHeads


def grow_at_once(
    growth: Growth,
    base: BaseModel,
    heads: PathHeads,
    hidden: torch.Tensor,
    root: torch.Tensor,
    num_wanted: int | None,
) -> Weighed:
    """As growth.grow."""
    assert isinstance(heads, LeanPathHeads)
    size = len(growth)
    wanted = size if num_wanted is None else num_wanted
    frame = DraftFrame(growth.levels, size, growth.max_depth + 1, growth.beam, wanted)
    grown = heads.grow(base, hidden, root, frame)
    return Weighed(grown.joint, grown.ids, grown.parents, grown.ancestors)
