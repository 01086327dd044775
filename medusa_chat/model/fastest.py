"""The fastest way to run a loaded model on its device."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from medusa_chat.errors import UnsupportedModel
from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.plain_llama import is_plain_llama
from medusa_chat.records import LMHeadPrecision

_KERNEL_DTYPES = (torch.bfloat16, torch.float16)
LM_HEAD_NEEDS_A_GPU = (
    "An LM head in 4 bits is for models of the Llama family in 16 bits on an NVIDIA GPU of compute "
    "capability 8.0 or more; load this one with --lm-head full."
)


def fastest(
    base: BaseModel, heads: MedusaHeads | None, lm_head: LMHeadPrecision = "full"
) -> tuple[BaseModel, MedusaHeads | None]:
    """Our own decoder of the Llama family in place of transformers', where it applies, and heads to match.

    What is handed in may have given its weights away. Heads may come from the CPU. Raises UnsupportedModel
    if the LM head can't be held so.
    """
    if _has_kernels(base):
        from medusa_chat.model.fused import FusedModel
        from medusa_chat.model.fused_heads import fused_heads

        fused = FusedModel(base, lm_head)
        return fused, None if heads is None else fused_heads(heads, fused)
    if lm_head != "full":
        raise UnsupportedModel(LM_HEAD_NEEDS_A_GPU)
    if base.device.type == "cuda":
        return base, None if heads is None else heads.to(base.device)
    from medusa_chat.model.lean import lean  # with a compiler, which a GPU needs not
    from medusa_chat.model.lean_heads import lean_heads

    base = lean(base)
    return base, None if heads is None else lean_heads(heads, base)


def kernels_for(device: torch.device) -> str | None:
    """What the kernels of our own decoder are compiled with on this device, or None where they don't run."""
    if device.type == "cpu":
        return "numba"
    # Their 4-bit decoding is NVIDIA's assembly; older GPUs lack bfloat16 and asynchronous copies.
    if device.type != "cuda" or torch.version.cuda is None or find_spec("triton") is None:
        return None
    return "triton" if torch.cuda.get_device_capability(device) >= (8, 0) else None


def _has_kernels(base: BaseModel) -> bool:
    is_plain = is_plain_llama(base) and base.dtype in _KERNEL_DTYPES
    return base.device.type == "cuda" and is_plain and kernels_for(base.device) is not None
