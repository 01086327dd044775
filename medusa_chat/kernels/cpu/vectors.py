"""LLVM's vectors of 16 numbers, as the kernels here are written in."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

LANES = 16
_AHEAD = 4096

I8, I32, I64 = (ir.IntType(bits) for bits in (8, 32, 64))
FLOATS = ir.VectorType(ir.FloatType(), LANES)
HALVES = ir.VectorType(ir.HalfType(), LANES)
INTS = ir.VectorType(I32, LANES)
BYTES = ir.VectorType(I8, LANES)


class _BFloat(ir.Type):  # type: ignore[misc]  # llvmlite knows no bfloat16
    null = "0.0"

    def __str__(self) -> str:
        return "bfloat"

    _to_string = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash("bfloat")


PAIRS = ir.VectorType(_BFloat(), 2 * LANES)


def integer(value: int) -> Any:
    return ir.Constant(I64, value)


def fetch(builder: ir.IRBuilder, address: Any) -> None:
    """What lies a little further on, into the second-level cache."""
    byte = ir.PointerType(I8)
    kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
    place = builder.inttoptr(builder.add(address, integer(_AHEAD)), byte)
    instruction = declared(builder, "llvm.prefetch.p0", kind)
    builder.call(instruction, [place, *(ir.Constant(I32, n) for n in (0, 2, 1))])


def declared(builder: ir.IRBuilder, name: str, kind: Any) -> Any:
    return builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
