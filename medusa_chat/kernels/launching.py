"""How kernels follow each other: where the GPU can, one is set up while the one before it still runs out."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@cache
def overlap() -> dict[str, Any]:
    """Launch options of every kernel here, which begins with `follow`. Needs compute capability 9.0; hides
    a microsecond of the two or three that a small kernel takes.
    """
    able = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
    return {"OVERLAP": True, "launch_pdl": True} if able else {"OVERLAP": False}


@triton.jit
def follow(OVERLAP: tl.constexpr):
    """Waits for the kernel before, all of whose results are there then, and lets the next one be set up."""
    if OVERLAP:
        gdc_wait()
        gdc_launch_dependents()
