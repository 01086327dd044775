"""Rows of numbers turned into columns, 16 by 16, in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from medusa_chat.kernels.cpu.vectors import FLOATS, INTS, LANES, fetch, integer


def _in_fours(*lanes: int) -> list[int]:
    """The same in each four lanes; from 4 on they are the other vector's."""
    return [start + lane % 4 + lane // 4 * LANES for start in range(0, LANES, 4) for lane in lanes]


def _by_fours(*parts: int) -> list[int]:
    """Four lanes at a time; from 4 on the other vector's."""
    return [4 * part + lane for part in parts for lane in range(4)]


# Which vectors meet, and what becomes of both: one instruction each, with AVX too. After the first two, each
# four lanes hold a column of four rows, of columns 0, 2, 1, 3.
_STAGES = (
    (1, _in_fours(0, 4, 1, 5), _in_fours(2, 6, 3, 7)),
    (2, _in_fours(0, 1, 4, 5), _in_fours(2, 3, 6, 7)),
    (4, _by_fours(0, 4, 2, 6), _by_fours(1, 5, 3, 7)),
    (8, _by_fours(0, 1, 4, 5), _by_fours(2, 3, 6, 7)),
)


@intrinsic
def transpose(_, rows, row_stride, num_rows, out):
    """16 columns of up to 16 rows in float32 -> 16 columns of 16, one after the other, of which those past
    num_rows mean nothing. Arguments are addresses and bytes.
    """

    def generate(context, builder, signature, arguments):
        at, stride, count, to = arguments
        last = builder.sub(count, integer(1))

        def load(row: int) -> Any:
            is_there = builder.icmp_signed("<", integer(row), last)
            place = builder.add(at, builder.mul(stride, builder.select(is_there, integer(row), last)))
            fetch(builder, place)
            return builder.load(builder.inttoptr(place, ir.PointerType(FLOATS)), align=4)

        vectors = [load(row) for row in range(LANES)]
        for distance, lower, upper in _STAGES:
            for row in (row for row in range(LANES) if not row & distance):
                pair = vectors[row], vectors[row + distance]
                for place, lanes in ((row, lower), (row + distance, upper)):
                    vectors[place] = builder.shuffle_vector(*pair, ir.Constant(INTS, lanes))
        for place, vector in enumerate(vectors):
            column = place & ~3 | (place & 1) << 1 | (place & 2) >> 1
            address = builder.add(to, integer(4 * LANES * column))
            builder.store(vector, builder.inttoptr(address, ir.PointerType(FLOATS)), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate
