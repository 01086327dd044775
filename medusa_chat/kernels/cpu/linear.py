"""Products of rows and weights, and what is done at once with their results.

Weights are read once for all rows, 32 outputs at a time; each row's bits are its own (panels.py). What a
forward of the default model spends on them is the time in which its weights come from memory: 270 MB in
bfloat16.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import carray

from medusa_chat.kernels.cpu.compiling import inner
from medusa_chat.kernels.cpu.packing import (
    BIAS,
    DATA,
    GROUP_SCALES,
    LENGTH,
    NUM_UNITS,
    PANEL_STRIDE,
    SCALE_STRIDE,
    SCALES,
    STEP,
    TABLE,
    UNIT,
    PanelWeight,
)
from medusa_chat.kernels.cpu.panels import (
    MOST_PANELS,
    MOST_ROWS,
    panels_1_2,
    panels_1_4,
    panels_4_2,
    panels_4_4,
    panels_most,
)
from medusa_chat.kernels.cpu.pointwise import as_pointer
from medusa_chat.kernels.cpu.team import take
from medusa_chat.kernels.cpu.vectors import LANES


def linear_reference(rows: torch.Tensor, weight: PanelWeight) -> torch.Tensor:
    """(R, K) -> (R, N) float32."""
    return rows.float() @ weight.dequantized().T + weight.bias[: weight.num_outputs]


@inner()
def linear(progress, phase, form, rows, weight, out, is_added):
    """rows (R, K), weight: its address; out (R, N') float32 becomes the products, or they are added to it.

    Two units at once for as long as there are three, so that threads end together.
    """
    sums = np.empty((MOST_ROWS, 2 * UNIT), np.float32)
    scales = carray(as_pointer(weight[SCALES]), weight[NUM_UNITS] * UNIT, np.float32)
    bias = carray(as_pointer(weight[BIAS]), weight[NUM_UNITS] * UNIT, np.float32)
    num_twos = max(0, weight[NUM_UNITS] // 2 - 1)
    number = take(progress, phase)
    while number + num_twos < weight[NUM_UNITS]:
        first, count = (2 * number, 2) if number < num_twos else (number + num_twos, 1)
        start, size = first * UNIT, count * UNIT
        row = 0
        while row < len(rows):
            done = _sum(form, rows[row:], weight, first, count, sums)
            for r in range(done):
                of_row = out[row + r, start : start + size]
                if is_added:
                    for i in range(size):
                        of_row[i] += sums[r, i] * scales[start + i] + bias[start + i]
                else:
                    for i in range(size):
                        of_row[i] = sums[r, i] * scales[start + i] + bias[start + i]
            row += done
        number = take(progress, phase)


@inner(inline="always")
def _sum(form, rows, weight, first, count, sums):
    """Products of the first rows, as many as are computed together, and one unit or two. Returns how many."""
    stride, scale_stride = weight[PANEL_STRIDE], weight[SCALE_STRIDE]
    data = weight[DATA] + 2 * first * stride
    scales = weight[GROUP_SCALES] + 2 * first * scale_stride
    out = sums.ctypes.data
    of_rows = rows.ctypes.data, rows.strides[0], rows.itemsize
    rest = (stride, weight[STEP], scale_stride, weight[TABLE], *of_rows, weight[LENGTH], sums.strides[0])
    if len(rows) >= MOST_ROWS:
        for _ in range(0, count * UNIT, MOST_PANELS * LANES):
            panels_most(form, rows, data, scales, out, *rest)
            data, scales = data + MOST_PANELS * stride, scales + MOST_PANELS * scale_stride
            out += MOST_PANELS * LANES * sums.itemsize
        return MOST_ROWS
    if len(rows) >= 4:
        if count == 2:
            panels_4_4(form, rows, data, scales, out, *rest)
        else:
            panels_4_2(form, rows, data, scales, out, *rest)
        return 4
    if count == 2:
        panels_1_4(form, rows, data, scales, out, *rest)
    else:
        panels_1_2(form, rows, data, scales, out, *rest)
    return 1
