"""Packed weights and products against their references: on a GPU as they are, elsewhere interpreted."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from medusa_chat.kernels.linear import (
    Tiling,
    default_tiling,
    linear,
    linear_each,
    linear_each_reference,
    linear_reference,
)
from medusa_chat.kernels.packing import (
    ROTATION,
    PackedWeight,
    byte_planes,
    codes_of,
    pack_4bit,
    pack_bytes,
    pack_codes,
    pack_float,
    pack_int8,
    pack_scales,
    unpack_bytes,
    unpack_codes,
    unpack_scales,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton's interpreter has no product in bfloat16.
DTYPES = [torch.bfloat16, torch.float16] if DEVICE == "cuda" else [torch.float16]
ON_GPU = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")


def packed(kind: str, outputs: int, inputs: int, dtype: torch.dtype, *, bias: bool = False) -> PackedWeight:
    """Fresh random weights whose products are about 1."""
    size = inputs**-0.5
    added = torch.randn(outputs, device=DEVICE) if bias else None
    if kind == "float":
        weight = (torch.randn(outputs, inputs, device=DEVICE) * size).to(dtype)
        return pack_float([weight[: outputs // 3], weight[outputs // 3 :]], added)
    if kind == "int8":
        data = torch.randint(-128, 128, (outputs, inputs), dtype=torch.int8, device=DEVICE)
        return pack_int8(
            [data[:5], data[5:]], [torch.rand(n, device=DEVICE) * size / 64 for n in (5, outputs - 5)], added
        )
    codes = torch.randint(0, 16, (outputs, inputs), dtype=torch.uint8, device=DEVICE)
    scales = torch.rand(outputs, -(-inputs // 64), device=DEVICE) * size
    return pack_4bit(codes, scales, torch.randn(16, device=DEVICE), dtype, added)


def test_codes_survive_packing() -> None:
    codes = torch.randint(0, 16, (7, 384), dtype=torch.uint8)
    words = pack_codes(codes)
    assert words.shape == (3, 7, 16)
    assert torch.equal(unpack_codes(words), codes)


def test_a_word_pair_holds_both_codes_of_each_plane() -> None:
    """Word 0 of a block holds positions 0 and 1 of planes 0 to 3, word 1 those of planes 4 to 7."""
    codes = torch.zeros(1, 128, dtype=torch.uint8)
    codes[0, 16] = 5  # plane 1, position 0: the lower half of the second byte of word 0
    codes[0, 113] = 11  # plane 7, position 1: the upper half of the last byte of word 1
    words = pack_codes(codes)[0, 0]
    assert words[0] == 5 << 8 + ROTATION
    assert words[1] == 11 << 28 - (32 - ROTATION)
    assert not words[2:].any()


def test_bytes_survive_packing() -> None:
    codes = torch.randint(-128, 128, (7, 384), dtype=torch.int8)
    words = pack_bytes(codes)
    assert words.shape == (3, 7, 32)
    assert torch.equal(unpack_bytes(words), codes)


def test_a_word_pair_holds_both_bytes_of_each_plane() -> None:
    """Word 0 of a block holds positions 0 and 1 of planes 0 and 1, word 1 those of planes 2 and 3."""
    codes = torch.zeros(1, 128, dtype=torch.int8)
    codes[0, 33] = 5  # plane 1, position 1
    codes[0, 64] = -1  # plane 2, position 0
    words = pack_bytes(codes)[0, 0]
    assert words[0] == 5 << 24
    assert words[1] == 255
    assert not words[2:].any()


def test_scales_survive_packing() -> None:
    scales = torch.rand(7, 6)
    packed = pack_scales(scales)
    assert packed.shape == (3, 7)
    assert torch.equal(unpack_scales(packed), scales.half().float())


def test_byte_planes_hold_low_and_high_bytes() -> None:
    table = torch.arange(16).float()
    halves = table.to(torch.bfloat16).view(torch.int16).tolist()
    low, high = byte_planes(table.to(torch.bfloat16))[:4], byte_planes(table.to(torch.bfloat16))[4:]
    for code, half in enumerate(halves):
        assert low[code // 4] >> 8 * (code % 4) & 0xFF == half & 0xFF
        assert high[code // 4] >> 8 * (code % 4) & 0xFF == half >> 8


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes_weights_are_read(quant_type: str, nested: bool) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.randn(24, 256, device=DEVICE)
    data, state = quantize_4bit(weight, quant_type=quant_type, blocksize=64, compress_statistics=nested)
    parameter = type("Parameter", (), {"data": data, "quant_state": state})
    ours = pack_4bit(*codes_of(parameter), torch.float16).dequantized()
    torch.testing.assert_close(ours, dequantize_4bit(data, state).float(), rtol=2e-3, atol=1e-5)


def test_blocks_across_rows_are_refused() -> None:
    from bitsandbytes.functional import quantize_4bit

    data, state = quantize_4bit(torch.randn(4, 96, device=DEVICE), quant_type="nf4", blocksize=64)
    with pytest.raises(ValueError, match="blocks of 64 in rows of 96"):
        codes_of(type("Parameter", (), {"data": data, "quant_state": state}))


@pytest.mark.parametrize("kind", ["4bit", "int8", "float"])
@pytest.mark.parametrize(
    ("rows", "outputs", "inputs", "splits"),
    [(1, 70, 128, 1), (5, 130, 576, 2), (17, 64, 320, 4), (70, 33, 192, 1), (32, 64, 256, 2)],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_equal_the_reference(
    kind: str, rows: int, outputs: int, inputs: int, splits: int, dtype: torch.dtype
) -> None:
    weight = packed(kind, outputs, inputs, dtype, bias=rows % 2 == 1)
    x = torch.randn(rows, inputs, device=DEVICE).to(dtype)
    parts = linear(x, weight, Tiling(splits, 64), torch.float32)
    assert parts.shape == (splits, rows, outputs)
    torch.testing.assert_close(parts.sum(0), linear_reference(x, weight)[0], rtol=2e-3, atol=2e-3)
    assert torch.equal(linear(x, weight, Tiling(splits, 64)), parts.to(dtype))


@pytest.mark.parametrize("kind", ["4bit", "int8", "float"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("rows", "outputs", "inputs", "splits"), [(1, 70, 128, 1), (3, 130, 320, 2)])
def test_each_row_has_a_layer_of_its_own(
    kind: str, shared: bool, rows: int, outputs: int, inputs: int, splits: int
) -> None:
    weight = packed(kind, rows * outputs, inputs, DTYPES[0], bias=not shared)
    x = torch.randn(1 if shared else rows, inputs, device=DEVICE).to(DTYPES[0]).expand(rows, -1)
    parts = linear_each(x, weight, Tiling(splits, 64), torch.float32)
    assert parts.shape == (splits, rows, outputs)
    torch.testing.assert_close(parts.sum(0), linear_each_reference(x, weight)[0], rtol=2e-3, atol=2e-3)
    assert torch.equal(linear_each(x, weight, Tiling(splits, 64)), parts.to(DTYPES[0]))


@pytest.mark.parametrize("kind", ["4bit", "int8", "float"])
@pytest.mark.parametrize("each", [False, True])
def test_the_op_is_what_it_says_to_tracers(kind: str, each: bool) -> None:
    weight = packed(kind, 3 * 70, 320, DTYPES[0], bias=each)
    x = torch.randn(3, 320, device=DEVICE).to(DTYPES[0])
    fields = weight.scales, weight.table, weight.lookup, weight.bias
    torch.library.opcheck(
        torch.ops.medusa_chat.linear, (x, weight.data, each, 2, x.dtype, *fields, 64, 4, 3, False)
    )


@pytest.mark.parametrize("kind", ["4bit", "int8", "float"])
def test_a_compiled_function_calls_the_op(kind: str) -> None:
    weight = packed(kind, 3 * 70, 320, DTYPES[0])

    def both(x: torch.Tensor) -> torch.Tensor:
        return linear_each(x, weight, Tiling(2, 64)).sum(0) + linear(x, weight, Tiling(2, 64)).sum()

    x = torch.randn(3, 320, device=DEVICE).to(DTYPES[0])
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), both(x), rtol=0, atol=0)


@ON_GPU
@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["4bit", "int8", "float"])
@pytest.mark.parametrize(("outputs", "inputs"), [(960, 576), (4096, 4096), (576, 1536)])
def test_a_row_has_the_same_bits_in_any_company(kind: str, outputs: int, inputs: int) -> None:
    weight = packed(kind, outputs, inputs, torch.bfloat16)
    x = torch.randn(150, inputs, device=DEVICE).bfloat16()
    tiling = default_tiling(weight, x.device)
    together = linear(x, weight, tiling, torch.float32)
    for count in (1, 4, 17, 40, 64):
        assert torch.equal(linear(x[:count], weight, tiling, torch.float32), together[:, :count])


@ON_GPU
@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 40, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_table_decodes_to_the_same_bits_as_arithmetic(rows: int, dtype: torch.dtype) -> None:
    weight = packed("4bit", 300, 1000, dtype)
    x = torch.randn(rows, 1000, device=DEVICE).to(dtype)
    by_table, by_arithmetic = (linear(x, weight, Tiling(2, 128, by_table=choice)) for choice in (True, False))
    assert torch.equal(by_table, by_arithmetic)
