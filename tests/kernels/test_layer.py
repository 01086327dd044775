"""The kernels between a layer's products against their references, at odd sizes."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from medusa_chat.kernels.attention import Placement, attention, attention_reference, runs_reached
from medusa_chat.kernels.keeping import keep_path, keep_path_reference
from medusa_chat.kernels.kv_rows import KVRows
from medusa_chat.kernels.pointwise import (
    add_norm,
    add_norm_reference,
    add_silu,
    add_silu_reference,
    embed_norm,
    embed_norm_reference,
    gate,
    gate_reference,
)
from medusa_chat.kernels.rotary import (
    HeadNorms,
    HeadShape,
    rotate_and_append,
    rotate_and_append_reference,
)
from medusa_chat.records import KVPrecision

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.float16  # Triton's interpreter has no product in bfloat16
# A root, two children, and below the second of them two grandchildren of one parent.
PARENTS = [-1, 0, 0, 2, 2]
DEPTHS = [0, 1, 1, 2, 2]
PRECISIONS: list[KVPrecision] = ["full", "8bit"]


def rows_of(values: torch.Tensor, precision: KVPrecision) -> KVRows:
    """(G, capacity, d) as a cache holds them."""
    rows = KVRows.empty(values.shape, DTYPE, values.device, precision)
    rows.write(values)
    return rows


@pytest.mark.parametrize("num_parts", [0, 1, 3])
def test_add_norm(num_parts: int) -> None:
    stream, weight = torch.randn(5, 70, device=DEVICE), torch.rand(70, device=DEVICE).to(DTYPE)
    partial = torch.randn(num_parts, 5, 70, device=DEVICE).to(DTYPE) if num_parts else None
    for ours, reference in zip(
        add_norm(stream, partial, weight, 1e-5),
        add_norm_reference(stream, partial, weight, 1e-5),
        strict=True,
    ):
        torch.testing.assert_close(ours, reference, rtol=2e-3, atol=1e-4)


def test_embed_norm() -> None:
    embedding, weight = torch.randn(30, 70, device=DEVICE).to(DTYPE), torch.rand(70, device=DEVICE).to(DTYPE)
    ids = torch.tensor([7, 0, 29, 7], device=DEVICE)
    ours, normed = embed_norm(ids, embedding, weight, 1e-5)
    stream, expected = embed_norm_reference(ids, embedding, weight, 1e-5)
    assert torch.equal(ours, stream)
    torch.testing.assert_close(normed, expected, rtol=2e-3, atol=1e-4)


def test_gate() -> None:
    partial = torch.randn(2, 3, 2 * 1100, device=DEVICE).to(DTYPE)
    torch.testing.assert_close(gate(partial), gate_reference(partial), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_add_silu(shared: bool) -> None:
    x = torch.randn(1 if shared else 3, 1100, device=DEVICE).to(DTYPE).expand(3, -1)
    partial = torch.randn(2, 3, 1100, device=DEVICE).to(DTYPE)
    torch.testing.assert_close(add_silu(x, partial), add_silu_reference(x, partial), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("path", [[0], [0, 2, 5, 6, 6], [0, 1, 2]])
def test_a_path_is_kept(path: list[int]) -> None:
    ours = torch.randn(2, 2, 1, 3, 40, 24, device=DEVICE).to(DTYPE)
    reference = ours.clone()
    where = torch.tensor([20], dtype=torch.int32, device=DEVICE), torch.tensor(path, device=DEVICE)
    keep_path(ours, *where)
    keep_path_reference(reference, *where)
    assert torch.equal(ours, reference)


@pytest.mark.parametrize("shape", [HeadShape(4, 2, 8), HeadShape(3, 1, 24)])
@pytest.mark.parametrize("with_norms", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_rotate_and_append(shape: HeadShape, with_norms: bool, precision: KVPrecision) -> None:
    dim = shape.head_dim
    norms = None
    if with_norms:
        norms = HeadNorms(torch.rand(dim, device=DEVICE), torch.rand(dim, device=DEVICE), 1e-6)
    partial = torch.randn(2, 5, (shape.num_heads + 2 * shape.num_kv_heads) * dim, device=DEVICE).to(DTYPE)
    turns = torch.randn(2, 40, dim // 2, device=DEVICE)
    length = torch.tensor([9], dtype=torch.int32, device=DEVICE)
    depths = torch.tensor(DEPTHS, device=DEVICE)
    before = torch.randn(2, shape.num_kv_heads, 32, dim, device=DEVICE)
    ours, reference = ([rows_of(values, precision) for values in before] for _ in range(2))
    arguments = partial, shape, turns, length, depths
    queries = rotate_and_append(*arguments, *ours, norms)
    expected = rotate_and_append_reference(*arguments, *reference, norms)
    torch.testing.assert_close(queries, expected, rtol=2e-3, atol=2e-3)
    for held, wanted, old in zip(ours, reference, before, strict=True):
        new = wanted.read(torch.float32)
        steps = torch.tensor(2e-3, device=DEVICE)
        if wanted.scales is not None:
            torch.testing.assert_close(held.scales, wanted.scales)
            steps = 1.01 * wanted.scales  # a value between two multiples may fall to either
        assert bool(((held.read(torch.float32) - new).abs() <= steps + 2e-3 * new.abs()).all())
        written = (new != rows_of(old, precision).read(torch.float32)).any(-1).any(0)
        assert written.nonzero()[:, 0].tolist() == list(range(9, 14))


def tree_paths() -> torch.Tensor:
    paths = []
    for node in range(len(PARENTS)):
        line = [node]
        while PARENTS[line[-1]] >= 0:
            line.append(PARENTS[line[-1]])
        paths.append([*line[::-1], *[node] * (3 - len(line))])
    return torch.tensor(paths, device=DEVICE)


@pytest.mark.parametrize("shape", [HeadShape(4, 2, 16), HeadShape(3, 1, 24), HeadShape(2, 2, 16)])
@pytest.mark.parametrize("length", [0, 3, 16, 40, 300])
@pytest.mark.parametrize("in_tree", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_attention(shape: HeadShape, length: int, in_tree: bool, precision: KVPrecision) -> None:
    rows = len(PARENTS)
    queries = torch.randn(rows, shape.num_heads, shape.head_dim, device=DEVICE).to(DTYPE)
    # Rows of many sizes, so that each needs its own scale.
    cached = torch.randn(2, shape.num_kv_heads, 320, shape.head_dim, device=DEVICE)
    cached *= torch.rand(2, shape.num_kv_heads, 320, 1, device=DEVICE) + 0.1
    keys, values = (rows_of(part, precision) for part in cached)
    placement = Placement(
        torch.tensor([length], dtype=torch.int32, device=DEVICE),
        torch.tensor(DEPTHS, device=DEVICE) if in_tree else torch.arange(rows, device=DEVICE),
        tree_paths() if in_tree else None,
        runs_reached(320),
    )
    arguments = queries, keys, values, shape, placement, 0.3
    torch.testing.assert_close(attention(*arguments), attention_reference(*arguments), rtol=5e-3, atol=5e-3)
