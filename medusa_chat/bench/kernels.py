"""The kernels of a step one by one, on a GPU: each linear of a shape, and attention over a long context.

Medians of CUDA-graph replays over copies that no cache holds. Beside each stands what the same product takes
in bitsandbytes and, unquantised, in cuBLAS; the bytes it must move; and the least time that those bytes, or
else its multiplications, would take on consumer cards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import torch

from medusa_chat.bench.cards import CARDS
from medusa_chat.bench.random_model import random_linear
from medusa_chat.bench.shapes import Shape
from medusa_chat.bench.steps import WEIGHTS
from medusa_chat.bench.timing import copy_bandwidth, graph_seconds, num_copies
from medusa_chat.errors import UnsupportedModel
from medusa_chat.kernels.packing import PackedWeight
from medusa_chat.model.attention import grouped_attention
from medusa_chat.model.loading import device_name
from medusa_chat.records import LoadProgress, Quantization

ROWS = (1, 4, 8, 16, 32, 64)
# Not merged, of Llama-2-7B: what other engines' figures are about.
_SINGLE_LINEARS = {"4096×4096": (4096, 4096), "11008×4096": (11008, 4096), "4096×11008": (4096, 11008)}
_CONTEXTS = (100, 1024, 4096, 8192, 16384)
_ATTENTION_ROWS = (1, 16, 32, 64)
_TILE_ROWS = 16  # the tensor cores multiply no fewer

Product = Callable[[torch.Tensor], torch.Tensor]  # (M, K) -> (M, N), or to partial sums of it


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to multiply: make gives a product over weights of its own, which are num_bytes. make_for_cards:
    one as it runs on consumer cards, by Triton kernels of this module.
    """

    name: str
    num_bytes: int
    make: Callable[[], Product]
    make_for_cards: Callable[[], Product] | None = None
    kernels: ModuleType | None = None


def measure_kernels(
    shape: Shape,
    quantization: Quantization,
    dtype: torch.dtype,
    on_progress: Callable[[LoadProgress], None],
) -> dict[str, Any]:
    """The report of `bench kernels`. Raises UnsupportedModel without a CUDA device."""
    if not torch.cuda.is_available():
        raise UnsupportedModel("bench kernels needs a CUDA device, and none was found here.")
    device = torch.device("cuda")
    bandwidth = copy_bandwidth(device)
    linears = []
    for name, (outputs, inputs) in {**_SINGLE_LINEARS, **shape.linears}.items():
        on_progress(LoadProgress(f"Linear {name}, {outputs}×{inputs}"))
        sizes = {"linear": name, "outputs": outputs, "inputs": inputs}
        contenders = linear_contenders(outputs, inputs, quantization, device, dtype)
        linears += [
            sizes | row for row in _time_linear(contenders, inputs, outputs, device, dtype, bandwidth)
        ]
    attention = []
    for num_context in _CONTEXTS:
        on_progress(LoadProgress(f"Attention over {num_context} tokens"))
        for num_rows in _ATTENTION_ROWS:
            row = _time_attention(shape, num_rows, num_context, device, dtype, bandwidth)
            attention.append({"context": num_context, "rows": num_rows} | row)
    return {
        "shape": shape.name,
        "weights": WEIGHTS,
        "quantization": quantization,
        "dtype": str(dtype).removeprefix("torch."),
        "machine": device_name(device),
        "bandwidth": bandwidth,
        "linears": linears,
        "attention": attention,
    }


def linear_contenders(
    outputs: int, inputs: int, quantization: Quantization, device: torch.device, dtype: torch.dtype
) -> list[Contender]:
    """The ways to multiply by (outputs, inputs) weights; the first is judged by its bandwidth."""

    def layer(held: Quantization) -> Product:
        product: Product = random_linear(outputs, inputs, held, device, dtype)
        return product

    num_weights = outputs * inputs
    held_bytes = {"none": num_weights * dtype.itemsize, "8bit": num_weights + 4 * outputs}
    held_bytes["4bit"] = num_weights * 9 // 16  # a float32 scale for each 64
    contenders = [_own_linear(outputs, inputs, quantization, device, dtype)]
    if quantization != "none":
        library = partial(layer, quantization)
        contenders.append(Contender("bitsandbytes", held_bytes[quantization], library))
    return [*contenders, Contender("cuBLAS", held_bytes["none"], partial(layer, "none"))]


def _own_linear(
    outputs: int, inputs: int, quantization: Quantization, device: torch.device, dtype: torch.dtype
) -> Contender:
    from medusa_chat.kernels import linear as kernels
    from medusa_chat.model.packed import pack_modules

    def pack() -> PackedWeight:
        return pack_modules([random_linear(outputs, inputs, quantization, device, dtype)], dtype)

    def make(**changes: bool) -> Product:
        weight = pack()
        tiling = replace(kernels.default_tiling(weight, device), **changes)
        return partial(kernels.linear, weight=weight, tiling=tiling)

    # A consumer card's shared memory has no room for the table that decodes.
    return Contender("medusa-chat", pack().num_bytes, make, partial(make, by_table=False), kernels)


def roofline(num_rows: int, outputs: int, inputs: int, num_bytes: int) -> dict[str, float]:
    """Card -> least µs of a product that moves num_bytes, on as many rows as a tile must have."""
    tile_rows = max(_TILE_ROWS, 1 << (num_rows - 1).bit_length())
    operations = 2 * tile_rows * outputs * inputs
    return {card.name: 1e6 * card.roofline_seconds(num_bytes, operations) for card in CARDS}


def _time_linear(
    contenders: Sequence[Contender],
    inputs: int,
    outputs: int,
    device: torch.device,
    dtype: torch.dtype,
    bandwidth: float,
) -> list[dict[str, Any]]:
    seconds: dict[str, dict[int, float]] = {}
    compiled: dict[int, list[dict[str, Any]]] = {}
    for contender in contenders:
        products = [contender.make() for _ in range(num_copies(contender.num_bytes))]
        for_cards = contender.make_for_cards and contender.make_for_cards()
        seconds[contender.name] = {}
        for num_rows in ROWS:
            x = torch.randn(num_rows, inputs, device=device, dtype=dtype)
            calls = [partial(product, x) for product in products]
            seconds[contender.name][num_rows] = graph_seconds(calls)
            if for_cards is not None and contender.kernels is not None:
                from medusa_chat.bench.compiled import (  # Triton comes with CUDA only
                    describe,
                    launched_kernels,
                )

                compiled[num_rows] = [
                    describe(k) for k in launched_kernels(partial(for_cards, x), contender.kernels)
                ]
        del products, calls
    rows = []
    for num_rows in ROWS:
        first = contenders[0]
        num_bytes = first.num_bytes + num_rows * (inputs + outputs) * dtype.itemsize
        rows.append(
            {
                "rows": num_rows,
                "us": {name: 1e6 * took[num_rows] for name, took in seconds.items()},
                "bytes": num_bytes,
                "share_of_bandwidth": num_bytes / seconds[first.name][num_rows] / bandwidth,
                "roofline_us": roofline(num_rows, outputs, inputs, num_bytes),
                "compiled": compiled.get(num_rows, []),
            }
        )
    return rows


def _time_attention(
    shape: Shape, num_rows: int, num_context: int, device: torch.device, dtype: torch.dtype, bandwidth: float
) -> dict[str, Any]:
    """N rows of a tree behind num_context tokens: every row sees those, and itself."""
    from medusa_chat.kernels.attention import Placement, attention, runs_reached
    from medusa_chat.kernels.kv_rows import KVRows
    from medusa_chat.kernels.rotary import HeadShape

    keys = num_context + num_rows
    cached = 2 * shape.num_kv_heads * keys * shape.head_dim * dtype.itemsize
    query = torch.randn(num_rows, shape.num_heads, shape.head_dim, device=device, dtype=dtype)
    mask = torch.zeros(num_rows, keys, device=device, dtype=dtype)
    mask[:, num_context:].fill_(torch.finfo(dtype).min).fill_diagonal_(0.0)
    stores = [
        torch.randn(2, shape.num_kv_heads, keys, shape.head_dim, device=device, dtype=dtype)
        for _ in range(num_copies(cached))
    ]
    heads = HeadShape(shape.num_heads, shape.num_kv_heads, shape.head_dim)
    rows = torch.arange(num_rows, device=device)
    placement = Placement(
        torch.tensor([num_context], dtype=torch.int32, device=device),
        (rows > 0).long(),
        torch.stack([torch.zeros_like(rows), rows], 1),
        runs_reached(keys),
    )
    scale = shape.head_dim**-0.5
    ours = [
        partial(attention, query, KVRows(store[0], dtype), KVRows(store[1], dtype), heads, placement, scale)
        for store in stores
    ]
    module, rows_first = torch.nn.Module(), query.transpose(0, 1)[None]
    theirs = [
        partial(
            grouped_attention,
            *(module, rows_first, store[None, 0], store[None, 1]),
            mask[None, None] if num_rows > 1 else None,
        )
        for store in stores
    ]
    took = graph_seconds(ours)
    num_bytes = cached + 2 * query.nbytes
    return {
        "us": {"medusa-chat": 1e6 * took, "torch": 1e6 * graph_seconds(theirs)},
        "bytes": num_bytes,
        "share_of_bandwidth": num_bytes / took / bandwidth,
    }
