"""Matrix products on the CPU for a few rows, over weights packed once; each row's bits are its own.

Packed weights are what makes one token cheap: at 4 rows the default model's 120 products and its LM head
take 11 ms in oneDNN's blocked bfloat16 and 6 ms in int8, against 20 through `F.linear`, which lays the
weights out anew at every call (2 cores of a Zen 4). Each class here takes rows (N, K), N a multiple of 4, and
gives rows (N, O), and a row's result has the same bits whatever rows are beside it. `F.linear` on unpacked
weights, in PlainLinear, is the truth they are tested against.

Tried and not taken: `_weight_int8pack_mm` (int8 weights, bfloat16 rows) takes 10 ms for one row but 32 for
16; `_weight_int4pack_mm_for_cpu` holds no NF4 values; oneDNN's packed float32 is slower than fbgemm's
float16 below 16 rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

_MOST_ROWS_IN_MIND = 4  # what oneDNN lays the weights out for; 16 and 64 gave the same speed at all sizes


class Linear(Protocol):
    """y = W x + b. dtype: of the rows it takes and gives. num_bytes: memory of the weights as held."""

    dtype: torch.dtype
    num_bytes: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(N, K) -> (N, O)."""


class FloatLinear(Linear, Protocol):
    """One whose weights can be had back."""

    @property
    def weight(self) -> torch.Tensor:
        """(O, K), as they were given."""


class PlainLinear:
    """Weights as they are: for machines without the other kernels, and to test those against."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """weight (O, K), bias (O,)."""
        self.weight, self._bias = weight, bias
        self.dtype = weight.dtype
        self.num_bytes = weight.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self._bias)


class PackedLinear:
    """bfloat16 weights in oneDNN's blocked layout, bfloat16 rows, sums in float32."""

    dtype = torch.bfloat16

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """weight (O, K), bias (O,)."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _MOST_ROWS_IN_MIND)
        self._bias = bias
        self._product = torch.ops.mkldnn._linear_pointwise.default
        self.num_bytes = weight.nbytes

    @staticmethod
    def works_here() -> bool:
        return bool(torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())

    @property
    def weight(self) -> torch.Tensor:
        weight: torch.Tensor = self._packed.to_dense()
        return weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._product(x, self._packed, self._bias, "none", [], "")
        return out


class HalfLinear:
    """float32 weights held in float16 by fbgemm, float32 rows and sums: half the memory to read."""

    dtype = torch.float32

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """weight (O, K) of values that float16 holds exactly, bias (O,)."""
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)
        self._product = torch.ops.quantized.linear_dynamic_fp16.default
        self.num_bytes = weight.nbytes // 2

    @staticmethod
    def works_here() -> bool:
        return "fbgemm" in torch.backends.quantized.supported_engines

    @staticmethod
    def holds(weight: torch.Tensor) -> bool:
        """Whether float16 loses nothing of these weights."""
        return torch.equal(weight.half().float(), weight)

    @property
    def weight(self) -> torch.Tensor:
        weight: torch.Tensor = torch.ops.quantized.linear_unpack_fp16(self._packed)[0]
        return weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._product(x, self._packed)
        return out


class Int8Linear:
    """int8 weights with a scale for each output, and rows rounded to 8 bits by a scale for each row.

    The same arithmetic as LLM.int8() with threshold 0. fbgemm would take one scale for all rows, by which a
    row's result would follow its neighbours; here each row is divided by its own largest value first, and
    one more row of -1 and 1 makes fbgemm's scale the same whatever there is. Its sums are of integers.
    """

    dtype = torch.float32

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """codes (O, K) int8, scale (O,): the weights are codes · scale; bias (O,)."""
        num_outputs, width = codes.shape
        with warnings.catch_warnings():
            # torch announces an end of its quantised tensors, of which this is only the way into fbgemm.
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch._make_per_channel_quantized_tensor(
                codes, scale.double(), torch.zeros(num_outputs, dtype=torch.long), 0
            )
        self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        self._product = torch.ops.quantized.linear_dynamic.default
        self._bias = None if bias is None else bias.float()
        self._bounds = torch.zeros(1, width)
        self._bounds[0, :2] = torch.tensor([-1.0, 1.0])
        self.num_bytes = codes.nbytes + scale.nbytes

    @classmethod
    def quantize(cls, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Int8Linear:
        """Rounds (O, K) weights to 127 steps of each output's largest."""
        scale = weight.float().abs().amax(1).clamp_min_(torch.finfo(torch.float32).tiny) / 127
        return cls((weight.float() / scale[:, None]).round_().to(torch.int8), scale, bias)

    @staticmethod
    def works_here() -> bool:
        """Without VNNI fbgemm adds pairs of products in 16 bits, where they overflow."""
        return HalfLinear.works_here() and torch.cpu._is_vnni_supported()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        largest = x.abs().amax(-1, keepdim=True)  # (N, 1)
        largest.clamp_min_(1e-30)
        rows = torch.cat([x / largest, self._bounds])  # (N + 1, K)
        out: torch.Tensor = self._product(rows, self._packed)[:-1]
        out.mul_(largest)
        return out if self._bias is None else out.add_(self._bias)


class Nf4Linear:
    """bitsandbytes' 4-bit weights and its kernel, which computes in bfloat16."""

    dtype = torch.bfloat16

    def __init__(self, linears: Sequence[Any], order: torch.Tensor | None = None) -> None:
        """Linear4bit modules of the same input, not run yet, rows of whole blocks; they are used up."""
        state = linears[0].weight.quant_state
        width = state.shape[1]
        codes = torch.cat([linear.weight.data.view(-1, width // 2) for linear in linears])  # (O, K / 2)
        absmax = [linear.weight.quant_state.absmax.view(-1, width // state.blocksize) for linear in linears]
        scales = torch.cat(absmax)  # (O, blocks)
        if order is not None:
            codes, scales = codes[order], scales[order]
        self.num_bytes = codes.nbytes + scales.nbytes
        self._module = linears[0].eval()
        self._module.bias = None
        import bitsandbytes as bnb  # it takes a second, and speaks as it is imported

        self._module.weight = bnb.nn.Params4bit(
            codes.view(-1, 1),
            requires_grad=False,
            quant_state=bnb.functional.QuantState(
                absmax=scales.flatten(),
                shape=torch.Size((len(codes), width)),
                code=state.code,
                blocksize=state.blocksize,
                quant_type=state.quant_type,
                dtype=state.dtype,
            ),
            blocksize=state.blocksize,
            quant_type=state.quant_type,
            bnb_quantized=True,
            module=self._module,
        )
        self._bias = _joined_bias(linears, order)

    @staticmethod
    def takes(linear: Any) -> bool:
        """Whether rows can be put together without taking blocks apart."""
        state = linear.weight.quant_state
        return (
            not state.nested
            and state.shape[1] % state.blocksize == 0
            and state.shape[0] % 32 == 0
            and linear.weight.dtype == torch.uint8
            and not getattr(state, "packing_format_for_cpu", False)
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._module(x)
        return out if self._bias is None else out.add_(self._bias)


def can_join(linear: nn.Module) -> bool:
    """Whether `join` takes this module, with others of its class."""
    if type(linear).__name__ == "Linear4bit":
        return Nf4Linear.takes(linear)
    if type(linear).__name__ == "Linear8bitLt":
        return Int8Linear.works_here() and linear.weight.dtype == torch.int8
    return type(linear) is nn.Linear


def join(linears: Sequence[Any], order: torch.Tensor | None = None) -> Linear:
    """One product in place of several of the same input, their outputs one after the other; order (O,) puts
    those into another order. The modules are used up: nothing of them should be kept.
    """
    if type(linears[0]).__name__ == "Linear4bit":
        return Nf4Linear(linears, order)
    bias = _joined_bias(linears, order)
    if type(linears[0]).__name__ == "Linear8bitLt":
        codes = torch.cat([linear.weight.data for linear in linears])  # (O, K)
        # Its first forward moves the largest of each output from the weight to the state.
        states = [linear.weight if linear.state.SCB is None else linear.state for linear in linears]
        largest = torch.cat([state.SCB for state in states])  # (O,)
        return Int8Linear(_in_order(codes, order), _in_order(largest, order) / 127, bias)
    return pack(_in_order(torch.cat([linear.weight.detach() for linear in linears]), order), bias)


def pack(weight: torch.Tensor, bias: torch.Tensor | None = None) -> FloatLinear:
    """(O, K) weights in the fastest form that keeps their values on this machine."""
    if weight.dtype == torch.bfloat16 and PackedLinear.works_here():
        return PackedLinear(weight, None if bias is None else bias.bfloat16())
    if weight.dtype == torch.float32 and HalfLinear.works_here() and HalfLinear.holds(weight):
        return HalfLinear(weight, bias)
    return PlainLinear(weight, bias)


def draft_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
    """(O, K) weights for drafts, which need no precision: half the bytes take half the time. Takes any number
    of rows.
    """
    if Int8Linear.works_here():
        return Int8Linear.quantize(weight.detach(), bias)
    return pack(weight.detach(), bias)


def _joined_bias(linears: Sequence[Any], order: torch.Tensor | None) -> torch.Tensor | None:
    if all(linear.bias is None for linear in linears):
        return None
    parts = [
        torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach().float()
        for linear in linears
    ]
    return _in_order(torch.cat(parts), order)


def _in_order(rows: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    return rows if order is None else rows[order]
