"""From a loaded model's linear modules to the kernels' weights, whatever they were quantised with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from medusa_chat.kernels.packing import PackedWeight, codes_of, pack_4bit, pack_float, pack_int8
from medusa_chat.model.lasting import LastingMemory

_ROWS_AT_ONCE = 2048


def pack_modules(modules: Sequence[Any], dtype: torch.dtype) -> PackedWeight:
    """torch or bitsandbytes linear modules of one input -> one weight for inputs of this dtype.

    The modules give away what would be held twice, and can't run any more: all but one whole weight, which is
    taken as it is.
    """
    bias = _bias(modules)
    kind = type(modules[0]).__name__
    if kind == "Linear4bit":
        packed = _pack_4bit([module.weight for module in modules], dtype, bias)
    elif kind == "Linear8bitLt":
        weights, scales = zip(*(_int8_of(module) for module in modules), strict=True)
        packed = pack_int8(weights, scales, bias)
    else:
        packed = pack_float([module.weight for module in modules], bias)
    if packed.data.data_ptr() != modules[0].weight.data_ptr():
        _give_away(modules)
    return packed


def quantize_rows(
    weight: torch.Tensor,
    lasting: LastingMemory,
    bias: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
) -> PackedWeight:
    """(N, K) in 16 bits and (N,) or None -> NF4 in that memory, for products that need no precision. rows
    (n,): those of the weight that are taken, in their order; None: all.
    """
    # In parts: laying an LM head out at once would take four times its own memory.
    device = lasting.device
    num_rows = len(weight) if rows is None else len(rows)
    whole: PackedWeight | None = None
    for start in range(0, num_rows, _ROWS_AT_ONCE):
        these = slice(start, start + _ROWS_AT_ONCE)
        part = _quantize_rows(weight[these if rows is None else rows[these]].to(device))
        if whole is None:
            with lasting.taken():
                whole = _room_for(num_rows, part)
        end = start + part.num_outputs
        for held, values in ((whole.data, part.data), (whole.scales, part.scales)):
            assert held is not None
            assert values is not None
            held[:, start:end] = values
    assert whole is not None
    if bias is not None:
        bias = (bias if rows is None else bias[rows]).to(device)
    return replace(whole, bias=bias)


def rows_of(weight: PackedWeight, rows: torch.Tensor) -> PackedWeight:
    """Of a 4-bit weight, the outputs with these numbers (n,), in their order."""
    assert weight.scales is not None
    return replace(
        weight,
        data=weight.data[:, rows],
        scales=weight.scales[:, rows],
        num_outputs=len(rows),
        bias=None if weight.bias is None else weight.bias[rows],
    )


def _room_for(num_outputs: int, part: PackedWeight) -> PackedWeight:
    """A 4-bit weight like the part but of so many rows, without values."""
    data, scales = (
        tensor.new_empty(tensor.shape[0], num_outputs, *tensor.shape[2:])
        for tensor in (part.data, part.scales)
        if tensor is not None
    )
    return replace(part, data=data, scales=scales, num_outputs=num_outputs)


def _quantize_rows(weight: torch.Tensor) -> PackedWeight:
    from bitsandbytes.functional import quantize_4bit

    data, state = quantize_4bit(weight, quant_type="nf4", blocksize=64)
    parameter = type("Parameter", (), {"data": data, "quant_state": state})
    return pack_4bit(*codes_of(parameter), weight.dtype)


def _pack_4bit(weights: Sequence[Any], dtype: torch.dtype, bias: torch.Tensor | None) -> PackedWeight:
    try:
        codes, scales, tables = zip(*map(codes_of, weights), strict=True)
    except ValueError:  # an odd block size: multiplied in 16 bits
        from bitsandbytes.functional import dequantize_4bit

        return pack_float([dequantize_4bit(w.data, w.quant_state).to(dtype) for w in weights], bias)
    return pack_4bit(torch.cat(codes), torch.cat(scales), tables[0], dtype, bias)


def _int8_of(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 (N, K) and float32 (N,) such that their product is the weight."""
    weight = module.weight
    data, largest = (module.state.CB, module.state.SCB) if weight.CB is None else (weight.CB, weight.SCB)
    return data, largest.float() / 127.0


def _give_away(modules: Sequence[Any]) -> None:
    for module in modules:
        weight = module.weight
        weight.data = weight.data.new_empty(0)
        match type(module).__name__:
            case "Linear4bit":  # scales take an eighth of what codes do
                weight.quant_state = module.quant_state = None
            case "Linear8bitLt":
                weight.CB = module.state.CB = None


def _bias(modules: Sequence[Any]) -> torch.Tensor | None:
    if all(module.bias is None for module in modules):
        return None
    return torch.cat(
        [
            torch.zeros(module.out_features, device=module.weight.device, dtype=torch.float32)
            if module.bias is None
            else module.bias.float()
            for module in modules
        ]
    )
