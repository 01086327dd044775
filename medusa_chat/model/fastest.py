"""The fastest way to run a loaded model on its device."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.lean import is_plain_llama, lean
from medusa_chat.model.lean_heads import lean_heads

_KERNEL_DTYPES = (torch.bfloat16, torch.float16)


def fastest(base: BaseModel, heads: MedusaHeads | None) -> tuple[BaseModel, MedusaHeads | None]:
    """Our own decoder of the Llama family in place of transformers', where it applies, and heads to match.

    What is handed in may have given its weights away. Heads may come from the CPU.
    """
    if base.device.type != "cuda":
        return lean(base), None if heads is None else lean_heads(heads)
    if not (_has_kernels(base.device) and is_plain_llama(base) and base.dtype in _KERNEL_DTYPES):
        return base, None if heads is None else heads.to(base.device)
    from medusa_chat.model.fused import FusedModel
    from medusa_chat.model.fused_heads import fused_heads

    fused = FusedModel(base)
    return fused, None if heads is None else fused_heads(heads, fused)


def _has_kernels(device: torch.device) -> bool:
    """Their 4-bit decoding is NVIDIA's assembly; older GPUs lack bfloat16 and asynchronous copies."""
    is_nvidia = torch.version.cuda is not None and find_spec("triton") is not None
    return is_nvidia and torch.cuda.get_device_capability(device) >= (8, 0)
