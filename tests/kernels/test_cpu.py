"""The CPU's kernels say what plain torch says, and a row's bits don't depend on its company."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numba import njit

from medusa_chat.kernels.cpu import attention as attention_of
from medusa_chat.kernels.cpu import panels, pointwise
from medusa_chat.kernels.cpu.attention import attend, attention_reference, join, turn
from medusa_chat.kernels.cpu.decoder import multiply
from medusa_chat.kernels.cpu.drafting import GatedWeights, advance
from medusa_chat.kernels.cpu.host import HAS_PAIR_PRODUCTS
from medusa_chat.kernels.cpu.linear import linear_reference
from medusa_chat.kernels.cpu.packing import (
    DATA,
    GROUP_SCALES,
    STEP,
    TABLE,
    PanelWeight,
    array,
    form,
    narrowest,
    pack_4bit,
    pack_float,
    pack_int8,
    quantize_int8,
)
from medusa_chat.kernels.cpu.pointwise import norm_reference
from medusa_chat.kernels.cpu.team import Team, meet, progress, take
from medusa_chat.kernels.kv_rows import KVRows
from medusa_chat.model.path_heads import GatedLayer, PathHeads


def for_python(function: Callable[..., None]) -> Callable[..., None]:
    """An inner function, which has no wrapper of its own."""

    @njit
    def call(*arguments):  # type: ignore[no-untyped-def]
        function(*arguments)

    return call  # type: ignore[no-any-return]


_norm, _turn, _attend, _join = map(for_python, (pointwise.norm, turn, attend, join))
FLOAT, PAIRS = torch.float32, torch.bfloat16
needs_pairs = pytest.mark.skipif(not HAS_PAIR_PRODUCTS, reason="no products of bfloat16 pairs here")


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(math.prod(shape)))


def in_8_bits(weight: torch.Tensor, bias: torch.Tensor, rows: torch.dtype) -> PanelWeight:
    return quantize_int8(weight, bias)


def in_4_bits(weight: torch.Tensor, bias: torch.Tensor, rows: torch.dtype) -> PanelWeight:
    """Of random codes, of the weight's shape."""
    num_outputs, num_inputs = weight.shape
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, weight.shape, generator=generator, dtype=torch.uint8)
    scales = torch.rand(num_outputs, num_inputs // 64, generator=generator) + 0.5
    return pack_4bit(codes, scales, torch.linspace(-1, 1, 16), rows, bias)


def in_floats(dtype: torch.dtype) -> Callable[..., PanelWeight]:
    return lambda weight, bias, rows: pack_float(weight.to(dtype), bias)


FORMS = [
    pytest.param(in_floats(torch.float32), FLOAT, id="float32"),
    pytest.param(in_floats(torch.float16), FLOAT, id="float16"),
    pytest.param(in_floats(torch.bfloat16), FLOAT, id="bfloat16"),
    pytest.param(in_floats(torch.bfloat16), PAIRS, id="bfloat16, pairs", marks=needs_pairs),
    pytest.param(in_8_bits, FLOAT, id="8 bits"),
    pytest.param(in_8_bits, PAIRS, id="8 bits, pairs", marks=needs_pairs),
    pytest.param(in_4_bits, FLOAT, id="4 bits"),
    pytest.param(in_4_bits, PAIRS, id="4 bits, pairs", marks=needs_pairs),
]


@pytest.mark.parametrize(("make", "rows"), FORMS)
@pytest.mark.parametrize(("num_outputs", "width"), [(100, 64), (7, 128), (576, 1536)])
def test_products_are_the_references_whatever_rows_are_beside(
    make: Callable[..., PanelWeight], rows: torch.dtype, num_outputs: int, width: int
) -> None:
    weight = make(random(num_outputs, width), random(num_outputs), rows)
    x = random(19, width).mul_(torch.logspace(-3, 3, 19)[:, None]).to(rows)
    expected = linear_reference(x, weight)
    whole = multiply(x, weight)
    assert ((whole - expected).norm(dim=1) / expected.norm(dim=1)).max() < 1e-5
    for num_rows in (1, 2, 3, 5, 8, 13):
        for start in (0, 19 - num_rows):
            assert torch.equal(multiply(x[start : start + num_rows], weight), whole[start : start + num_rows])


@pytest.mark.parametrize(("make", "rows"), FORMS)
def test_weights_come_back_as_they_were_packed(make: Callable[..., PanelWeight], rows: torch.dtype) -> None:
    """By which the reference multiplies: it must not repeat a mistake of the packing."""
    weight = make(random(40, 128), torch.zeros(40), rows)
    torch.testing.assert_close(multiply(torch.eye(128).to(rows), weight).T, weight.dequantized())
    if make is not in_4_bits:
        torch.testing.assert_close(weight.dequantized(), random(40, 128), rtol=8e-3, atol=2e-2)


def test_4_bit_codes_are_read_by_portable_instructions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no AVX-512. The same function compiled anew, for they are chosen as code is made."""
    monkeypatch.setattr(panels, "HAS_AVX512", False)
    x, table = random(1, 64), torch.linspace(-1, 1, 16)
    codes = torch.randint(0, 16, (16, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    weight = pack_4bit(codes, torch.ones(16, 1), table, FLOAT)
    portable = panels._panels(1, 1)

    @njit
    def product(form, rows, weight, out):  # type: ignore[no-untyped-def]
        x, y = rows.ctypes.data, out.ctypes.data
        data, scales = weight[DATA], weight[GROUP_SCALES]
        portable(form, rows, data, scales, y, 0, weight[STEP], 0, weight[TABLE], x, 0, 4, 64, 0)

    out = torch.empty(1, 16)
    product(form(weight), x.numpy(), weight.address, out.numpy())
    assert torch.equal(out, multiply(x, weight))
    assert "vpermps" not in next(iter(product.inspect_asm().values()))


def test_a_width_that_is_odd_is_filled_up() -> None:
    weight = pack_float(random(5, 7).bfloat16())
    x = torch.zeros(2, 8)
    x[:, :7] = random(2, 7)
    torch.testing.assert_close(multiply(x, weight), x[:, :7] @ weight.dequantized().T)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_are_held_in_as_few_bits_as_hold_them(dtype: torch.dtype) -> None:
    assert narrowest([random(3, 3).to(dtype).float(), torch.zeros(2, 2)]) == dtype


def test_outputs_and_rows_of_zeros_are_no_trouble() -> None:
    weight = quantize_int8(torch.zeros(8, 8))
    assert torch.equal(multiply(torch.zeros(4, 8), weight), torch.zeros(4, 8))


@pytest.mark.parametrize("width", [64, 40])
def test_path_aware_heads_advance_as_torch_has_them_do(width: int) -> None:
    shapes = [((width, 64), (width, 64), (32, width)), ((width, 32), (width, 32), (32, width))]
    weights = [[random(*shape) / 8 for shape in layer] for layer in shapes]
    heads = PathHeads([GatedLayer(torch.cat([g, u]), down) for g, u, down in weights], random(3, 32))
    packed = [GatedWeights(pack_float(torch.cat([g, u])), pack_float(down)) for g, u, down in weights]
    state, embedding = random(5, 32), random(1, 5, 32)[0] + 1
    expected = heads.advance(state, embedding, 1)
    torch.testing.assert_close(advance(state, embedding, heads.depth.data[1], packed), expected)


def test_codes_in_8_bits_are_multiplied_exactly() -> None:
    codes = torch.arange(-128, 128, dtype=torch.int32).to(torch.int8).view(4, 64)
    weight = pack_int8(codes, torch.tensor([1.0, 2.0, 0.5, 1.0]))
    ones = torch.ones(1, 64)
    assert torch.equal(multiply(ones, weight), linear_reference(ones, weight))


@njit
def _exponentials(values, out):  # type: ignore[no-untyped-def]
    for i in range(len(values)):
        out[i] = pointwise.exp_of_negative(values[i])


@njit
def _silus(values, out):  # type: ignore[no-untyped-def]
    for i in range(len(values)):
        out[i] = pointwise.silu(values[i])


def test_the_exponential() -> None:
    values = -np.logspace(-8, np.log10(87), 4000).astype(np.float32)
    got = np.empty_like(values)
    _exponentials(values, got)
    np.testing.assert_allclose(got, np.exp(values.astype(np.float64)), rtol=2e-7)
    _exponentials(np.array([0.0, -88.0, -1e30, -np.inf], np.float32), got)
    assert got[:4].tolist() == [1.0, 0.0, 0.0, 0.0]


def test_silu() -> None:
    values = torch.cat([random(500) * 20, torch.tensor([0.0, -0.0, 200.0, -200.0])])
    got = np.empty(len(values), np.float32)
    _silus(values.numpy(), got)
    expected = torch.nn.functional.silu(values.double()).float()
    torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-6, atol=1e-30)


def normed(x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    out = torch.empty(x.shape, dtype=dtype)
    epsilon = np.float32(1e-5)
    _norm(progress(1), 0, x.numpy(), weight.numpy(), epsilon, array(out))
    return out


def test_norms_are_the_references() -> None:
    x, weight = random(5, 90), random(90)
    torch.testing.assert_close(normed(x, weight, torch.float32), norm_reference(x, weight, 1e-5))


def test_rows_are_rounded_to_bfloat16_as_torch_rounds() -> None:
    x, weight = random(3, 96), random(96)
    assert torch.equal(normed(x, weight, torch.bfloat16), normed(x, weight, torch.float32).bfloat16())


def attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    positions: torch.Tensor,
    visible: torch.Tensor,
    length: int,
) -> torch.Tensor:
    """queries (R, H, d); keys and values (G, S, d), of which `turn`, by no angle, files the last R."""
    num_rows, num_heads, head_dim = queries.shape
    num_kv_heads, num_keys, _ = keys.shape
    numbers = torch.zeros(1, 2, num_kv_heads, num_keys + 3, head_dim)
    numbers[0, 0, :, :length], numbers[0, 1, :, :length] = keys[:, :length], values[:, :length]
    new = [part[:, length:].transpose(0, 1).reshape(num_rows, -1) for part in (keys, values)]
    qkv = torch.cat([queries.reshape(num_rows, -1), *new], 1)
    group = num_heads // num_kv_heads
    num_queries, chunks = attention_of.num_queries(num_rows, group), int(positions.max()) // 128 + 1
    unseen = torch.zeros(num_queries, num_rows)
    unseen[: group * num_rows] = torch.where(visible, 0.0, -torch.inf).repeat(group, 1)
    filed = np.zeros((num_kv_heads, num_queries, attention_of.width(head_dim)), np.float32)
    largest, totals = (np.empty((chunks, num_kv_heads, num_queries), np.float32) for _ in range(2))
    sums = np.empty((chunks, *filed.shape), np.float32)
    out = torch.empty(num_rows, num_heads * head_dim)
    rows, scale = numbers.transpose(0, 1)[:, 0].numpy(), head_dim**-0.5
    file_without_turning(qkv, rows, None, scale, length, filed, (num_heads, num_kv_heads))
    where = length, positions.numpy(), unseen.numpy()
    _attend(progress(1), 0, filed, rows, None, *where, largest, totals, sums)
    _join(progress(1), 0, largest, totals, sums, num_heads, out.numpy())
    return out


def file_without_turning(
    qkv: torch.Tensor,
    numbers: np.ndarray,
    scales: np.ndarray | None,
    scale: float,
    start: int,
    queries: np.ndarray,
    heads: tuple[int, int],
) -> None:
    head_dim = numbers.shape[-1]
    turns = np.zeros((len(qkv), 2, head_dim // 2), np.float32)
    turns[:, 0] = 1.0
    no_norms, epsilon = np.empty((0, head_dim), np.float32), np.float32(0)
    given = qkv.numpy(), no_norms, epsilon, turns, np.float32(scale)
    _turn(progress(1), 0, *given, start, numbers, scales, queries, heads)


@pytest.mark.parametrize(("length", "num_rows"), [(0, 1), (5, 3), (127, 9), (128, 1), (300, 21)])
@pytest.mark.parametrize("num_kv_heads", [1, 3])
def test_attention_is_the_references(length: int, num_rows: int, num_kv_heads: int) -> None:
    queries = random(num_rows, 3, 24)
    keys, values = (
        random(num_kv_heads, length + num_rows, 24),
        random(num_kv_heads, length + num_rows, 24) + 1,
    )
    visible = torch.ones(num_rows, num_rows, dtype=torch.bool).tril()
    got = attention(queries, keys, values, torch.arange(length, length + num_rows), visible, length)
    visible = torch.cat([torch.ones(num_rows, length, dtype=torch.bool), visible], 1)
    expected = attention_reference(queries.transpose(0, 1) * 24**-0.5, keys, values, visible)
    torch.testing.assert_close(got, expected)


def test_a_path_of_a_tree_across_two_chunks_has_the_bits_it_has_alone() -> None:
    """Behind 126 cached rows; the path's nodes stand between those of another branch."""
    parents = [-1, 0, 0, 1, 2, 3, 4]
    visible = torch.eye(7, dtype=torch.bool)
    for node, parent in enumerate(parents[1:], start=1):
        visible[node] |= visible[parent]
    queries, keys, values = random(7, 2, 16), random(1, 133, 16), random(1, 133, 16) + 1
    tree = attention(queries, keys, values, 125 + visible.sum(1), visible, 126)
    path = [0, 2, 4, 6]
    rows = [*range(126), *(126 + node for node in path)]
    whole = torch.ones(4, 4, dtype=torch.bool).tril()
    alone = attention(queries[path], keys[:, rows], values[:, rows], torch.arange(126, 130), whole, 126)
    assert torch.equal(tree[path], alone)


def test_keys_are_written_in_8_bits_as_the_cache_writes_them() -> None:
    qkv = random(4, 3 * 16) * torch.logspace(-20, 3, 4)[:, None]  # a head each of queries, keys, values
    qkv[2, 16:] = 0
    ours, theirs = (
        KVRows.empty((1, 2, 1, 6, 16), torch.float32, torch.device("cpu"), "8bit") for _ in range(2)
    )
    theirs[0, :, :, 1:5].write(torch.stack([qkv[:, 16:32], qkv[:, 32:]])[:, None])
    numbers, scales = (part.transpose(0, 1)[:, 0].numpy() for part in ours.parts)
    file_without_turning(qkv, numbers, scales, 1.0, 1, np.zeros((1, 4, 16), np.float32), (1, 1))
    for got, expected in zip(ours.parts, theirs.parts, strict=True):
        assert torch.equal(got[..., 1:5, :], expected[..., 1:5, :])


@njit(nogil=True)
def _count(thread, num_threads, progress, num_units, counts):  # type: ignore[no-untyped-def]
    for phase in range(len(counts)):
        unit = take(progress, phase)
        while unit < num_units:
            counts[phase, unit] += 1 + (counts[phase - 1].sum() if phase else 0)
            unit = take(progress, phase)
        meet(progress, phase, num_threads)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_each_unit_is_done_once_and_each_phase_after_the_last(num_threads: int) -> None:
    """Also by more threads than there are processors."""
    team = Team(num_threads)
    for _ in range(20):
        counts = np.zeros((3, 50), np.int64)
        team.run(_count, 3, 50, counts)
        assert np.unique(counts[0]) == [1]
        assert np.unique(counts[1]) == [51]
        assert np.unique(counts[2]) == [1 + 50 * 51]


def test_calls_from_several_threads_wait_for_each_other() -> None:
    team = Team(2)
    all_counts = [np.zeros((3, 50), np.int64) for _ in range(40)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda counts: team.run(_count, 3, 50, counts), all_counts))
    assert all(np.unique(counts[2]) == [1 + 50 * 51] for counts in all_counts)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_has_a_team_of_its_own() -> None:
    weight, rows = pack_float(random(5, 8)), torch.ones(1, 8)
    expected = multiply(rows, weight)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(multiply(rows, weight), expected) else 1)
    for _ in range(100):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("it hangs")
    assert status == 0


def test_a_team_sleeps_between_calls() -> None:
    team = Team(3)
    team.run(_count, 1, 8, np.zeros((1, 8), np.int64))
    time.sleep(0.05)
    used = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - used < 0.15
