"""What lies between the products: numbers of other formats, the exponential, norms."""

from __future__ import annotations

import math

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from medusa_chat.kernels.cpu.compiling import inner
from medusa_chat.kernels.cpu.team import take

_LOG2E = np.float32(1.4426950408889634)
# ln 2 in two parts, the first of so few bits that its multiples are exact.
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LEAST = np.float32(-87.0)  # the exponential of less is 0
_ONE, _ZERO = np.float32(1.0), np.float32(0.0)
_ROUNDER = np.float32(3 << 22)  # added to a small number, it leaves a whole one in the last bits
# Cephes' polynomial for the exponential (Moshier), good to two units in the last place.
_C0, _C1, _C2, _C3, _C4, _C5 = (
    np.float32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
)


@intrinsic
def as_pointer(_, address):
    """An address as numba's carray takes it."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.PointerType(ir.IntType(8)))

    return types.voidptr(types.int64), generate


@intrinsic
def _to_bits(_, value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def _from_bits(_, bits):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def _from_half(_, bits):
    def generate(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.int16), generate


def as_float(value):
    """A float32 of a value as packing.array has it."""
    raise NotImplementedError("compiled only")


@overload(as_float, inline="always")
def _as_float(value):
    match value:
        case types.uint16:
            return lambda value: _from_bits(np.uint32(np.uint32(value) << np.uint32(16)))
        case types.int16:
            return lambda value: _from_half(value)
        case _:
            return lambda value: value


def as_row(rows, value):
    """A float32 as an array of rows holds it: as it is, or rounded to bfloat16, half to even."""
    raise NotImplementedError("compiled only")


@overload(as_row, inline="always")
def _as_row(rows, value):
    if rows.dtype == types.float32:
        return lambda rows, value: value

    def rounded(rows, value):
        bits = _to_bits(value)
        odd = np.uint32(bits >> np.uint32(16)) & np.uint32(1)
        return np.uint16(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))

    return rounded


@inner()
def exp_of_negative(x):
    """e^x of a float32 up to 0; 0 below -87."""
    shifted = max(x, _LEAST) * _LOG2E + _ROUNDER
    times = shifted - _ROUNDER
    rest = max(x, _LEAST) - times * _LN2_HIGH - times * _LN2_LOW
    series = ((((_C0 * rest + _C1) * rest + _C2) * rest + _C3) * rest + _C4) * rest + _C5
    power = _from_bits(np.uint32(np.uint32(_to_bits(shifted) << np.uint32(23)) + np.uint32(127 << 23)))
    return _ZERO if x < _LEAST else (series * rest * rest + rest + _ONE) * power


@inner()
def silu(x):
    """x / (1 + e^-x) of a float32."""
    small = exp_of_negative(-abs(x))
    return x * (_ONE if x >= _ZERO else small) / (_ONE + small)


@inner()
def gate(progress, phase, both, out):
    """both (R, ≥ 2F) float32: gates, then what they let through; out (R, F) of rows becomes silu(gate) · up.

    Not done with each unit of the product: sixteen at a time, it is compiled number by number, and took as
    long as the product's sums.
    """
    size = out.shape[1]
    row = take(progress, phase)
    while row < len(out):
        for i in range(size):
            out[row, i] = as_row(out, silu(both[row, i]) * both[row, size + i])
        row = take(progress, phase)


@inner(fastmath={"reassoc"})
def log_sum_of_exponentials(row, largest):
    """log Σ e^(value - largest) of a float32 row."""
    total = _ZERO
    for value in row:
        total += exp_of_negative(value - largest)
    return np.float32(math.log(total))


@inner(fastmath={"reassoc"})
def _sum_of_squares(row):
    total = _ZERO
    for value in row:
        total += value * value
    return total


@inner()
def norm_row(row, weight, epsilon, out):
    """row / √(mean(row²) + ε) · weight, float32, as `out` holds it."""
    scale = _ONE / np.float32(math.sqrt(_sum_of_squares(row) / np.float32(len(row)) + epsilon))
    for i in range(len(row)):
        out[i] = as_row(out, row[i] * scale * weight[i])


@inner()
def norm(progress, phase, x, weight, epsilon, out):
    """x (R, D') float32, weight (D,): RMS norm of each row's first D values into those of `out`."""
    size = len(weight)
    row = take(progress, phase)
    while row < len(x):
        norm_row(x[row, :size], weight, epsilon, out[row, :size])
        row = take(progress, phase)


def norm_reference(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """(R, D), (D,) -> (R, D) float32."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight
