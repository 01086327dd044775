"""Attention over a cache for models with grouped queries, without repeating K and V.

transformers' own SDPA path copies K and V once per query group at every step as soon as a mask is given;
here the queries of a group are stacked as rows instead, so K and V are read where they lie.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

GROUPED_ATTENTION = "medusa_grouped"


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention signature: query (B, H, N, d), key and value (B, G, S, d) with H a multiple
    of G, additive mask (1, 1, N, S) or None where every row sees everything. Returns (B, N, H, d), None.
    """
    batch, num_heads, num_rows, head_dim = query.shape
    num_kv_heads = key.shape[1]
    group = num_heads // num_kv_heads
    rows = query.reshape(batch, num_kv_heads, group * num_rows, head_dim)
    if attention_mask is not None:
        attention_mask = attention_mask.repeat(1, 1, group, 1)  # (1, 1, group·N, S)
    out = F.scaled_dot_product_attention(rows, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(batch, num_heads, num_rows, head_dim).transpose(1, 2), None


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
# cuDNN builds a new plan for every new length, 65 ms on an H100, and here every step has a new length.
torch.backends.cuda.enable_cudnn_sdp(False)
