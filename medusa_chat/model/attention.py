"""Attention over a cache for models with grouped queries, without repeating K and V.

transformers' own SDPA path copies K and V once per query group at every step as soon as a mask is given;
here the queries of a group are stacked as rows instead, so K and V are read where they lie.

On the CPU it is moreover reproducible: a token's output has the same bits whether it ran alone, in a prompt
or as a node of any tree. That is what makes drafting change nothing at all in bfloat16 and 4 bits, where
SDPA's last bits, which follow the number of rows, let greedy decoding part ways at near-ties: with it 6 of
10 answers differed from plain ones within 128 tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

GROUPED_ATTENTION = "medusa_grouped"
MAX_TREE_ROWS = 64
# Keys whose weighted values are summed by one product. MKL adds up to 192 of them strictly in order, so that
# masked ones, adding 0, leave no trace; beyond that it splits the sum by their number.
_CHUNK = 128


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    position_ids: torch.Tensor | None = None,
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
    if query.device.type == "cpu" and position_ids is not None and attention_mask is not None:
        scale = head_dim**-0.5 if scaling is None else scaling
        out = _reproducible(rows, key, value, attention_mask, scale, position_ids[0])
    else:
        out = F.scaled_dot_product_attention(rows, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(batch, num_heads, num_rows, head_dim).transpose(1, 2), None


def _reproducible(
    rows: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
    positions: torch.Tensor,
) -> torch.Tensor:
    """rows (B, G, R, d), key and value (B, G, S, d) in float32, mask (1, 1, R, S), positions (N,) of the last
    N keys -> (B, G, R, d). Each row's sum runs over its keys in the order of their positions, in chunks
    bounded at multiples of _CHUNK positions, however many other rows there are.
    """
    scores = torch.matmul(rows.float(), key.transpose(2, 3)).mul_(scale).add_(mask)  # (B, G, R, S)
    weights = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    # In float64 the order of the summands is below float32's last bit.
    total = weights.sum(-1, keepdim=True, dtype=torch.float64).float()
    out = torch.zeros_like(rows, dtype=torch.float32)
    num_keys, num_cached = key.shape[2], key.shape[2] - len(positions)
    in_tree = len(positions) <= MAX_TREE_ROWS  # a longer run is a prompt, where key i is at position i
    for start in range(0, int(positions.max()) + 1, _CHUNK):
        end = min(start + _CHUNK, num_keys)
        part = weights[..., start:end]
        if in_tree and end > num_cached:
            # Nodes lie behind the cache in the tree's order: take them into the chunk of their position.
            end = num_keys
            first = max(num_cached, start)
            mine = torch.ones(end - start, device=rows.device)
            mine[first - start :] = (positions[first - num_cached :] // _CHUNK) == start // _CHUNK
            part = weights[..., start:end] * mine
        out += torch.matmul(part, value[:, :, start:end])
    return (out / total).to(rows.dtype)


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
# cuDNN builds a new plan for every new length, 65 ms on an H100, and here every step has a new length.
torch.backends.cuda.enable_cudnn_sdp(False)
