"""How weights lie in memory for the CPU's kernels: panels of 16 outputs, each a run of memory.

By the dtype of the array, for K inner positions: float32 (P, K, 16); float16 (int16, the same); bfloat16
(uint16) (P, K / 2, 16, 2); 8 bits (int8) (P, K / 2, 2, 16); 4 bits (uint8) (P, K / 2, 16), two positions a
byte, the first in its lower half. 4 bits have a scale for each 64 positions, 8 bits one for each output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from medusa_chat.kernels.cpu.host import HAS_PAIR_PRODUCTS
from medusa_chat.kernels.cpu.vectors import LANES
from medusa_chat.kernels.packing import GROUP

UNIT = 2 * LANES  # outputs that are computed together


@dataclass(frozen=True, slots=True, eq=False)
class PanelWeight:
    """The weights of one product of K inputs and N outputs, filled up to whole units.

    data: as above. scales, bias: (N',) float32, N' with those filled up. group_scales (P, K / 64, 16) float32
    and table (16,) float32, what each code stands for: with 4 bits, else empty.
    """

    data: torch.Tensor
    num_outputs: int
    num_inputs: int
    scales: torch.Tensor
    bias: torch.Tensor
    group_scales: torch.Tensor
    table: torch.Tensor

    @property
    def num_bytes(self) -> int:
        of_codes = self.scales.nbytes if self.data.dtype == torch.int8 else self.group_scales.nbytes
        return self.data.nbytes + of_codes

    @property
    def num_units(self) -> int:
        return len(self.data) * LANES // UNIT

    @property
    def address(self) -> np.ndarray[Any, Any]:
        """(10,) int64: what compiled code knows of it, by the names below."""
        tensors = (self.data, self.scales, self.bias, self.group_scales, self.table)
        length = self.num_inputs + self.num_inputs % 2
        scale_stride = self.group_scales[0].nbytes if len(self.group_scales) else 0
        sizes = (length, self.num_units, self.data[0].nbytes, self.data[0, 0].nbytes, scale_stride)
        return np.array([*(tensor.data_ptr() for tensor in tensors), *sizes])

    def dequantized(self) -> torch.Tensor:
        """(N, K) float32: what is multiplied by."""
        num_panels = len(self.data)
        if self.data.dtype == torch.uint8:
            codes = torch.stack([self.data & 15, self.data >> 4], 2)  # (P, K / 2, 2, 16)
            values = self.table[codes.view(num_panels, -1, LANES).long()]
            by_lane = values * self.group_scales.repeat_interleave(GROUP, 1)
        elif self.data.dtype == torch.bfloat16:
            by_lane = self.data.float().transpose(2, 3).reshape(num_panels, -1, LANES)
        else:
            by_lane = self.data.float().view(num_panels, -1, LANES)
        weight = by_lane.transpose(1, 2).reshape(num_panels * LANES, -1)
        return weight[: self.num_outputs, : self.num_inputs] * self.scales[: self.num_outputs, None]


DATA, SCALES, BIAS, GROUP_SCALES, TABLE, LENGTH, NUM_UNITS, PANEL_STRIDE, STEP, SCALE_STRIDE = range(10)

_AS_INTEGERS = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}
# What compiled code is told of a weight's form: an empty array of a dtype that numba knows.
_FORMS: dict[torch.dtype, np.ndarray[Any, Any]] = {
    torch.float32: np.empty(0, np.float32),
    torch.float16: np.empty(0, np.int16),
    torch.bfloat16: np.empty(0, np.uint16),
    torch.int8: np.empty(0, np.int8),
    torch.uint8: np.empty(0, np.uint8),
}


def form(weight: PanelWeight) -> np.ndarray[Any, Any]:
    """Tells compiled code the form of a weight by its dtype; empty."""
    return _FORMS[weight.data.dtype]


def narrowest(weights: Sequence[torch.Tensor]) -> torch.dtype:
    """A dtype that holds all of these, of 16 bits if one does."""
    for dtype in (torch.bfloat16, torch.float16):
        if all(torch.equal(weight.to(dtype).to(weight.dtype), weight) for weight in weights):
            return dtype
    return torch.float32


def rows_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the rows that a model of this dtype multiplies: float32 but where bfloat16 is faster."""
    return torch.bfloat16 if dtype == torch.bfloat16 and HAS_PAIR_PRODUCTS else torch.float32


def array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The same memory, in 16 bits as integers: uint16 for bfloat16, int16 for float16."""
    view = _AS_INTEGERS.get(tensor.dtype)
    whole: np.ndarray[Any, Any] = (tensor if view is None else tensor.view(view)).numpy()
    return whole


def pack_float(weight: torch.Tensor, bias: torch.Tensor | None = None) -> PanelWeight:
    """(N, K) float32, float16 or bfloat16."""
    panels = _panels(weight)  # (P, 16, K)
    if weight.dtype == torch.bfloat16:
        data = panels.view(*panels.shape[:2], -1, 2).transpose(1, 2).contiguous()
    else:
        data = panels.transpose(1, 2).contiguous()
    return _weight(data, weight.shape, None, bias)


def pack_int8(codes: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None = None) -> PanelWeight:
    """codes (N, K) int8, scales (N,) float32: the weights are codes · scale."""
    panels = _panels(codes)
    data = panels.view(*panels.shape[:2], -1, 2).permute(0, 2, 3, 1).contiguous()
    return _weight(data, codes.shape, scales, bias)


def quantize_int8(weight: torch.Tensor, bias: torch.Tensor | None = None) -> PanelWeight:
    """Rounds (N, K) weights to 127 steps of each output's largest."""
    scale = weight.float().abs().amax(1).clamp_min_(torch.finfo(torch.float32).tiny) / 127
    return pack_int8((weight.float() / scale[:, None]).round_().to(torch.int8), scale, bias)


def pack_4bit(
    codes: torch.Tensor,
    scales: torch.Tensor,
    table: torch.Tensor,
    dtype: torch.dtype,
    bias: torch.Tensor | None = None,
) -> PanelWeight:
    """codes (N, K) uint8 below 16, scales (N, K / 64) float32, table (16,) float32; dtype: of the rows."""
    panels = _panels(codes)
    first, second = panels.view(*panels.shape[:2], -1, 2).transpose(1, 2).unbind(-1)  # (P, K / 2, 16)
    filled = F.pad(scales.float(), (0, 0, 0, -len(scales) % UNIT))
    groups = filled.view(len(panels), LANES, -1).transpose(1, 2).contiguous()  # (P, K / 64, 16)
    data = (first | second << 4).contiguous()
    return _weight(data, codes.shape, None, bias, groups, table.to(dtype).float())


def _panels(values: torch.Tensor) -> torch.Tensor:
    """(N, K) -> (P, 16, K'), filled up with zeros."""
    num_outputs, num_inputs = values.shape
    filled = F.pad(values, (0, num_inputs % 2, 0, -num_outputs % UNIT))
    return filled.view(-1, LANES, filled.shape[1])


def _weight(
    data: torch.Tensor,
    shape: torch.Size,
    scales: torch.Tensor | None,
    bias: torch.Tensor | None,
    group_scales: torch.Tensor | None = None,
    table: torch.Tensor | None = None,
) -> PanelWeight:
    num_outputs, num_inputs = shape
    missing = -num_outputs % UNIT
    scales = torch.ones(num_outputs) if scales is None else scales
    bias = torch.zeros(num_outputs) if bias is None else bias
    nothing = torch.empty(0, dtype=torch.float32)
    return PanelWeight(
        data,
        num_outputs,
        num_inputs,
        F.pad(scales.float(), (0, missing)),
        F.pad(bias.float(), (0, missing)),
        nothing if group_scales is None else group_scales,
        nothing if table is None else table,
    )
