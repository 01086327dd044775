"""The fastest way to run a loaded model on its device."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.lean import is_plain_llama, lean


def fastest(base: BaseModel, heads: MedusaHeads | None) -> tuple[BaseModel, MedusaHeads | None]:
    """Our own decoder of the Llama family in place of transformers', where it applies, and heads to match.

    What is handed in may have given its weights away.
    """
    if base.device.type != "cuda":
        return lean(base), heads
    in_16_bits = base.dtype in (torch.bfloat16, torch.float16)
    if not in_16_bits or not is_plain_llama(base) or find_spec("triton") is None:
        return base, heads
    from medusa_chat.model.fused import FusedModel
    from medusa_chat.model.fused_heads import FusedHeads

    return FusedModel(base), None if heads is None else FusedHeads(heads)
