"""The inner loop of all products: a few rows times a few panels of 16 columns, summed in registers.

    out[r, 16 p + lane] += Σ_k rows[r, k] · weights[p][k][lane]

Each sum runs over k one by one, whatever rows and panels there are beside it: so a row's bits are its own.
Weights come in the forms of packing.py, told apart by the dtype of their array; rows are float32, or pairs of
bfloat16 (uint16) where the processor multiplies those. Written as LLVM's vector operations, since compilers
don't find this loop by themselves.

Eight rows of two panels, or four of four, keep enough sums under way to hide the multiplier's latency and
fit the 32 registers of AVX-512. With two panels, four rows took as long as eight. Where registers are half
as many and half as wide, four rows of one panel take eight of the sixteen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from medusa_chat.kernels.cpu.host import HAS_AVX512
from medusa_chat.kernels.cpu.vectors import (
    BYTES,
    FLOATS,
    HALVES,
    I32,
    I64,
    INTS,
    LANES,
    PAIRS,
    declared,
    fetch,
    integer,
)

PAIRS_OF_A_GROUP = 32  # pairs of inner positions that share a scale of 4-bit weights
_SIXTEENTHS = ir.Constant(INTS, [16] * LANES)
_HIGH = ir.Constant(INTS, [-65536] * LANES)


def _panels(num_rows: int, num_panels: int) -> Callable[..., Any]:
    """An intrinsic for this many rows and panels.

    weights_like, rows_like: arrays of the dtypes. Addresses and strides are in bytes: from panel to panel,
    row to row and inner position to inner position: of rows in float32; of weights, from those that are read
    at once to the next. length: inner positions, even but for float32 and float16 weights.
    """

    @intrinsic
    def panels(
        _,
        weights_like,
        rows_like,
        weights,
        scales,
        out,
        panel_stride,
        weights_step,
        scale_stride,
        table,
        rows,
        row_stride,
        step,
        length,
        out_stride,
    ):
        signature = types.void(weights_like, rows_like, *[types.int64] * 12)

        def generate(context, builder, signature, arguments):
            weights_dtype, rows_dtype = (argument.dtype for argument in signature.args[:2])
            form = _FORMS[weights_dtype, rows_dtype]
            _Panel(builder, form, num_rows, num_panels, arguments[2:]).generate()
            return context.get_dummy_value()

        return signature, generate

    return panels  # type: ignore[no-any-return]


class _Panel:
    """Emits one panel product."""

    def __init__(
        self, builder: ir.IRBuilder, form: _Form, num_rows: int, num_panels: int, arguments: Any
    ) -> None:
        self.b, self.form = builder, form
        self.rows, self.panels = range(num_rows), range(num_panels)
        (
            self.weights,
            self.scales,
            self.out,
            self.panel_stride,
            self.weights_step,
            self.scale_stride,
            table,
            self.x,
            self.row_stride,
            self.step,
            length,
            self.out_stride,
        ) = arguments
        self.steps = builder.udiv(length, integer(form.positions))
        self.tables = form.tables(self, table)

    def generate(self) -> None:
        start = self._zeros()
        if self.form.scaled_groups:
            sums = _loop(self.b, self.b.udiv(self.steps, integer(PAIRS_OF_A_GROUP)), start, self._add_group)
        else:
            sums = _loop(self.b, self.steps, start, self._add_products)
        places = ((self.out_stride, r, p) for r in self.rows for p in self.panels)
        for (stride, r, p), value in zip(places, sums, strict=True):
            place = self.pointer(self.out, FLOATS, (stride, r), (integer(4 * LANES), p))
            self.b.store(value, place, align=4)

    def _zeros(self) -> list[Any]:
        return [ir.Constant(FLOATS, [0.0] * LANES)] * (len(self.rows) * len(self.panels))

    def _add_group(self, group: Any, sums: list[Any]) -> list[Any]:
        b = self.b
        first = b.mul(group, integer(PAIRS_OF_A_GROUP))
        parts = _loop(
            self.b,
            integer(PAIRS_OF_A_GROUP),
            self._zeros(),
            lambda i, sums: self._add_products(b.add(first, i), sums),
        )
        scales = [
            b.load(
                self.pointer(
                    self.scales, FLOATS, (self.scale_stride, p), (b.mul(group, integer(4 * LANES)), 1)
                ),
                align=4,
            )
            for p in self.panels
        ]
        return [
            self.fma(part, scales[number % len(self.panels)], total)
            for number, (part, total) in enumerate(zip(parts, sums, strict=True))
        ]

    def _add_products(self, number: Any, sums: list[Any]) -> list[Any]:
        form, b = self.form, self.b
        offset = b.mul(number, self.weights_step)
        weights = []
        for p in self.panels:
            address = b.add(b.add(self.weights, b.mul(self.panel_stride, integer(p))), offset)
            fetch(b, address)
            weights.append(form.decode(self, address))
        after = []
        for r in self.rows:
            row = form.row(self, b.add(self.x, b.mul(self.row_stride, integer(r))), number)
            of_row = sums[r * len(self.panels) :]
            after += [form.multiply(self, weights[p], row, of_row[p]) for p in self.panels]
        return after

    def pointer(self, address: Any, kind: Any, *strides: tuple[Any, int]) -> Any:
        for stride, times in strides:
            address = self.b.add(address, self.b.mul(stride, integer(times)))
        return self.b.inttoptr(address, ir.PointerType(kind))

    def load(self, address: Any, kind: Any, offset: int = 0) -> Any:
        return self.b.load(self.pointer(address, kind, (integer(offset), 1)), align=1)

    def everywhere(self, value: Any, kind: Any) -> Any:
        """A value in all lanes."""
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
        return self.b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(INTS, [0] * LANES))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
        return self.b.call(declared(self.b, "llvm.fma.v16f32", kind), [a, b, c])

    def pick(self, table: Any, numbers: Any) -> Any:
        """Each lane's value (FLOATS or INTS) of 16 in a table; numbers (INTS) below 16."""
        b, kind = self.b, table.type
        if HAS_AVX512:
            name = "llvm.x86.avx512.permvar." + ("sf.512" if kind == FLOATS else "si.512")
            return b.call(declared(b, name, ir.FunctionType(kind, [kind, INTS])), [table, numbers])
        values = [self.everywhere(b.extract_element(table, ir.Constant(I32, n)), kind) for n in range(LANES)]
        for bit in range(4):
            is_set = b.icmp_signed(
                "!=", b.and_(numbers, ir.Constant(INTS, [1 << bit] * LANES)), ir.Constant(INTS, [0] * LANES)
            )
            values = [b.select(is_set, values[n + 1], values[n]) for n in range(0, len(values), 2)]
        return values[0]


class _Form:
    """How weights are read and multiplied. positions: inner ones at once."""

    positions = 2
    scaled_groups = False

    def tables(self, panel: _Panel, address: Any) -> tuple[Any, ...]:
        return ()

    def decode(self, panel: _Panel, address: Any) -> Any: ...

    def row(self, panel: _Panel, address: Any, number: Any) -> Any: ...

    def multiply(self, panel: _Panel, weights: Any, row: Any, total: Any) -> Any: ...


class _FloatForm(_Form):
    """Rows in float32; weights become as many vectors of it as there are positions."""

    def row(self, panel: _Panel, address: Any, number: Any) -> Any:
        b, values = panel.b, []
        for position in range(self.positions):
            place = b.add(b.mul(number, integer(self.positions)), integer(position))
            at = b.add(address, b.mul(place, panel.step))
            values.append(panel.everywhere(panel.load(at, ir.FloatType()), FLOATS))
        return values

    def multiply(self, panel: _Panel, weights: Any, row: Any, total: Any) -> Any:
        for weight, value in zip(weights, row, strict=True):
            total = panel.fma(weight, value, total)
        return total


class _PairForm(_Form):
    """Rows in bfloat16, two inner positions at once; weights become pairs of it."""

    def row(self, panel: _Panel, address: Any, number: Any) -> Any:
        pair = panel.load(panel.b.add(address, panel.b.mul(number, integer(4))), I32)
        return panel.b.bitcast(panel.everywhere(pair, INTS), PAIRS)

    def multiply(self, panel: _Panel, weights: Any, row: Any, total: Any) -> Any:
        kind = ir.FunctionType(FLOATS, [FLOATS, PAIRS, PAIRS])
        product = declared(panel.b, "llvm.x86.avx512bf16.dpbf16ps.512", kind)
        return panel.b.call(product, [total, weights, row])


class _Float32(_FloatForm):
    positions = 1

    def decode(self, panel: _Panel, address: Any) -> Any:
        return [panel.load(address, FLOATS)]


class _Float16(_FloatForm):
    positions = 1

    def decode(self, panel: _Panel, address: Any) -> Any:
        return [panel.b.fpext(panel.load(address, HALVES), FLOATS)]


class _BFloat16(_FloatForm):
    def decode(self, panel: _Panel, address: Any) -> Any:
        b, pairs = panel.b, panel.load(address, INTS)
        return [b.bitcast(half, FLOATS) for half in (b.shl(pairs, _SIXTEENTHS), b.and_(pairs, _HIGH))]


class _BFloat16Pairs(_PairForm):
    def decode(self, panel: _Panel, address: Any) -> Any:
        return panel.load(address, PAIRS)


class _Int8(_FloatForm):
    def decode(self, panel: _Panel, address: Any) -> Any:
        codes = (panel.load(address, BYTES, LANES * position) for position in range(2))
        return [panel.b.sitofp(panel.b.sext(some, INTS), FLOATS) for some in codes]


class _Int8Pairs(_PairForm):
    def decode(self, panel: _Panel, address: Any) -> Any:
        first, second = (panel.b.bitcast(value, INTS) for value in _Int8().decode(panel, address))
        both = panel.b.or_(panel.b.lshr(first, _SIXTEENTHS), second)  # bfloat16 holds 8 bits: nothing is lost
        return panel.b.bitcast(both, PAIRS)


class _FourBits(_FloatForm):
    scaled_groups = True

    def tables(self, panel: _Panel, address: Any) -> tuple[Any, ...]:
        return (panel.load(address, FLOATS),)

    def decode(self, panel: _Panel, address: Any) -> Any:
        return [panel.pick(panel.tables[0], codes) for codes in _nibbles(panel, address)]


class _FourBitPairs(_PairForm):
    scaled_groups = True

    def tables(self, panel: _Panel, address: Any) -> tuple[Any, ...]:
        """The table's values, which bfloat16 holds, as the first of a pair and as the second."""
        second = panel.load(address, INTS)
        return panel.b.lshr(second, _SIXTEENTHS), second

    def decode(self, panel: _Panel, address: Any) -> Any:
        values = map(panel.pick, panel.tables, _nibbles(panel, address))
        return panel.b.bitcast(panel.b.or_(*values), PAIRS)


def _nibbles(panel: _Panel, address: Any) -> tuple[Any, Any]:
    b, both = panel.b, panel.b.zext(panel.load(address, BYTES), INTS)
    return b.and_(both, ir.Constant(INTS, [15] * LANES)), b.lshr(both, ir.Constant(INTS, [4] * LANES))


def _loop(
    b: ir.IRBuilder, count: Any, start: list[Any], body: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """Vectors `start` after sums = body(i, sums) for each i below count."""
    before = b.block
    head, inside, done = (b.append_basic_block(name) for name in ("head", "inside", "done"))
    b.branch(head)
    b.position_at_end(head)
    number = b.phi(I64)
    number.add_incoming(integer(0), before)
    sums = [b.phi(FLOATS) for _ in start]
    for phi, value in zip(sums, start, strict=True):
        phi.add_incoming(value, before)
    b.cbranch(b.icmp_signed("<", number, count), inside, done)
    b.position_at_end(inside)
    after = body(number, sums)
    number.add_incoming(b.add(number, integer(1)), b.block)
    for phi, value in zip(sums, after, strict=True):
        phi.add_incoming(value, b.block)
    b.branch(head)
    b.position_at_end(done)
    return sums


_FORMS: dict[tuple[Any, Any], _Form] = {
    (types.float32, types.float32): _Float32(),
    (types.int16, types.float32): _Float16(),
    (types.uint16, types.float32): _BFloat16(),
    (types.uint16, types.uint16): _BFloat16Pairs(),
    (types.int8, types.float32): _Int8(),
    (types.int8, types.uint16): _Int8Pairs(),
    (types.uint8, types.float32): _FourBits(),
    (types.uint8, types.uint16): _FourBitPairs(),
}
MOST_ROWS, MOST_PANELS = (8, 2) if HAS_AVX512 else (4, 1)
# Of so many rows and panels.
panels_1_2, panels_1_4 = _panels(1, 2), _panels(1, 4)
panels_4_2, panels_4_4 = _panels(4, 2), _panels(4, 4)
panels_most = _panels(MOST_ROWS, MOST_PANELS)
FEW_ROWS, FEW_PANELS = 4, 4 if HAS_AVX512 else 1
panels_few = _panels(FEW_ROWS, FEW_PANELS)
