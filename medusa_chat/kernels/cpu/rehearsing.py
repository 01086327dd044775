"""A forward, a product and a draft of next to nothing, by which all is compiled that a model's need.

Made of numpy's arrays: torch's default dtype is the process's, and another one while a model is read.
"""

from __future__ import annotations

import numpy as np
import torch

from medusa_chat.kernels.cpu.decoder import Decoder, LayerWeights, multiply
from medusa_chat.kernels.cpu.drafting import DraftFrame, GatedWeights, grow
from medusa_chat.kernels.cpu.packing import PanelWeight, pack_4bit, pack_float, pack_int8, rows_dtype
from medusa_chat.kernels.kv_rows import KVRows
from medusa_chat.records import KVPrecision

_SIZE = 64  # of all there is; 4-bit weights have a scale for so many
_NUM_LAYERS, _CAPACITY = 2, 2  # a cache of 1 would be contiguous, for which all is compiled apart
_FRAME = DraftFrame([range(1, 2), range(2, 3)], num_nodes=3, num_columns=3, beam=1, num_wanted=3)


def rehearse(layers: torch.dtype, head: torch.dtype, dtype: torch.dtype, kv_cache: KVPrecision) -> None:
    """layers, head: how their weights are held, the dtype of PanelWeight.data; dtype: the model's."""
    hidden, first = _zeros(1, _SIZE), torch.tensor([0])
    normed = _decoder(layers, dtype)(
        hidden,
        KVRows.empty((_NUM_LAYERS, 2, 1, _CAPACITY, _SIZE), torch.float32, hidden.device, kv_cache),
        0,
        first,
        np.zeros((1, 2, _SIZE // 2), np.float32),
        torch.tensor([[True]]),
        1.0,
    )
    multiply(normed, _weight(_SIZE, head, dtype))
    drafting = [GatedWeights(_weight(2 * _SIZE, torch.int8, dtype, 2), _weight(_SIZE, torch.int8, dtype))]
    state, depths, draft_head = hidden.to(dtype), _zeros(2, _SIZE), _weight(1, torch.int8, dtype)
    grow(state, 0, state, depths, drafting, draft_head, first, _FRAME)


def _decoder(form: torch.dtype, dtype: torch.dtype) -> Decoder:
    qkv, gate_up, square = (_weight(num_outputs * _SIZE, form, dtype) for num_outputs in (3, 2, 1))
    layer = LayerWeights(qkv, square, gate_up, square, _zeros(2, _SIZE), _zeros(0, _SIZE))
    return Decoder(_NUM_LAYERS * [layer], _zeros(_SIZE), 1.0, 1, 1, rows_dtype(dtype))


def _weight(num_outputs: int, form: torch.dtype, dtype: torch.dtype, num_sizes: int = 1) -> PanelWeight:
    values = _zeros(num_outputs, num_sizes * _SIZE).to(form)
    match form:
        case torch.uint8:
            return pack_4bit(values, _zeros(num_outputs, num_sizes), _zeros(16), rows_dtype(dtype))
        case torch.int8:
            return pack_int8(values, _zeros(num_outputs))
        case _:
            return pack_float(values)


def _zeros(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.zeros(shape, np.float32))
