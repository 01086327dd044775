"""What the team is called for: a forward of all decoder layers, one product, a level of a draft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit

from medusa_chat.kernels.cpu.attention import CHUNK, attend, join, turn
from medusa_chat.kernels.cpu.host import HAS_PAIR_PRODUCTS
from medusa_chat.kernels.cpu.linear import add_linear, gated_linear, linear
from medusa_chat.kernels.cpu.packing import UNIT, PanelWeight, form
from medusa_chat.kernels.cpu.panels import LANES
from medusa_chat.kernels.cpu.pointwise import as_row, norm, norm_row
from medusa_chat.kernels.cpu.team import Team, meet, take
from medusa_chat.kernels.kv_rows import KVRows

_EPSILON = np.float32(1e-6)  # of path-aware heads' norms
_NUM_THREADS = torch.get_num_threads()  # torch has one only within a step (LeanModel.undisturbed)
_PHASES_OF_A_LAYER = 9
_QKV, _OUTPUT, _GATE_UP, _DOWN = range(4)


def rows_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the rows that a model of this dtype multiplies: float32 but where bfloat16 is faster."""
    return torch.bfloat16 if dtype == torch.bfloat16 and HAS_PAIR_PRODUCTS else torch.float32


def multiply(rows: torch.Tensor, weight: PanelWeight) -> torch.Tensor:
    """rows (R, K) in a dtype of rows -> (R, N) float32."""
    out = torch.empty(len(rows), weight.num_units * UNIT)
    _team().run(_multiply, 1, form(weight), _array(rows), weight.address, _array(out))
    return out[:, : weight.num_outputs]


def advance(
    state: torch.Tensor, embedding: torch.Tensor, depth: torch.Tensor, layers: Sequence[GatedWeights]
) -> torch.Tensor:
    """As PathHeads.advance: states (R, D) and embeddings (R, D) of tokens, depth (D,) -> states (R, D)."""
    (num_rows, size), rows = state.shape, rows_dtype(state.dtype)
    first = layers[0]
    x = torch.zeros(num_rows, first.down.num_units * UNIT)
    x[:, :size] = state
    seen, normed = (torch.empty(num_rows, width, dtype=rows) for width in (2 * size, size))
    inner = torch.empty(num_rows, first.gate_up.num_units * LANES, dtype=rows)
    addresses = np.stack([[layer.gate_up.address, layer.down.address] for layer in layers])
    given = addresses, embedding.float().numpy(), depth.float().numpy(), x.numpy()
    on_the_way = _array(seen), _array(normed), _array(inner)
    _team().run(_advance, 3 * len(layers), form(first.gate_up), *given, *on_the_way)
    return x[:, :size].to(state.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class GatedWeights:
    """Of one layer of path-aware heads. gate_up: its panels in turn."""

    gate_up: PanelWeight
    down: PanelWeight


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """Of one decoder layer. gate_up: its panels in turn. head_norms (2, d), or (0, d)."""

    qkv: PanelWeight
    output: PanelWeight
    gate_up: PanelWeight
    down: PanelWeight
    norms: torch.Tensor  # (2, D): before attention, before the MLP
    head_norms: torch.Tensor

    @property
    def products(self) -> tuple[PanelWeight, ...]:
        return self.qkv, self.output, self.gate_up, self.down


class Decoder:
    """All layers and the last norm. num_heads, num_kv_heads: H, G; epsilon: of all norms."""

    def __init__(
        self,
        layers: Sequence[LayerWeights],
        last_norm: torch.Tensor,
        epsilon: float,
        num_heads: int,
        num_kv_heads: int,
        rows_dtype: torch.dtype,
    ) -> None:
        self._layers = layers  # their memory is known by its addresses alone below
        self._addresses = np.stack([[weight.address for weight in layer.products] for layer in layers])
        self._norms = torch.stack([layer.norms for layer in layers]).numpy()
        self._head_norms = torch.stack([layer.head_norms for layer in layers]).numpy()
        self._last_norm, self._epsilon = last_norm.numpy(), np.float32(epsilon)
        self._num_heads, self._num_kv_heads, self._rows_dtype = num_heads, num_kv_heads, rows_dtype

    def __call__(
        self,
        x: torch.Tensor,
        store: KVRows,
        length: int,
        positions: torch.Tensor,
        turns: torch.Tensor,
        visible: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """x (R, D): embeddings. store (layers, 2, G, capacity, d), of which `length` rows are committed and
        the next R are written. positions (R,) int64; turns (R, 2, d / 2): cosines and sines; visible (R, R)
        bool: which of the R rows each row sees besides the committed ones. scale: of scores.

        Returns (R, D) in the dtype of rows, after the last norm.
        """
        num_rows, size = x.shape
        first, dtype = self._layers[0], self._rows_dtype
        head_dim, kv_heads = store.shape[-1], self._num_kv_heads
        num_lanes = self._num_heads // kv_heads * num_rows
        tiles = -(-num_lanes // LANES)
        num_chunks = int(positions.max()) // CHUNK + 1
        unseen = torch.zeros(num_rows, tiles * LANES)
        unseen[:, :num_lanes] = torch.where(visible.T, 0.0, -torch.inf).repeat(1, num_lanes // num_rows)
        running = torch.zeros(num_rows, first.down.num_units * UNIT)  # the output's too
        running[:, :size] = x
        hidden = torch.empty(num_rows, size, dtype=dtype)
        _team().run(
            _decode,
            len(self._layers) * _PHASES_OF_A_LAYER + 1,
            form(first.qkv),
            self._addresses,
            self._norms,
            self._head_norms,
            self._last_norm,
            self._epsilon,
            # Keys and values first: never contiguous, so that compiled code needn't know both kinds.
            store.numbers.transpose(0, 1).numpy(),
            None if store.scales is None else store.scales.transpose(0, 1).numpy(),
            length,
            positions.numpy(),
            turns.numpy(),
            np.float32(scale),
            unseen.view(num_rows, tiles, LANES).numpy(),
            (self._num_heads, kv_heads),
            running.numpy(),
            _array(torch.empty(num_rows, size, dtype=dtype)),
            np.empty((num_rows, first.qkv.num_units * UNIT), np.float32),
            np.zeros((kv_heads, tiles, head_dim, LANES), np.float32),
            np.empty((num_chunks, kv_heads, tiles, LANES), np.float32),
            np.empty((num_chunks, kv_heads, tiles, LANES), np.float32),
            np.empty((num_chunks, kv_heads, tiles, head_dim, LANES), np.float32),
            _array(torch.empty(num_rows, self._num_heads * head_dim, dtype=dtype)),
            _array(torch.empty(num_rows, first.gate_up.num_units * LANES, dtype=dtype)),
            _array(hidden),
        )
        return hidden


@cache
def _team() -> Team:
    return Team(_NUM_THREADS)


def _array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The same memory, bfloat16 as uint16."""
    array: np.ndarray[Any, Any] = (
        tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    ).numpy()
    return array


@njit(nogil=True, cache=True)
def _multiply(thread, num_threads, progress, form, rows, weight, out):
    linear(progress, 0, form, rows, weight, out)
    meet(progress, 0, num_threads)


@njit(nogil=True, cache=True)
def _advance(thread, num_threads, progress, form, layers, embedding, depth, x, seen, normed, inner):
    """x (R, D') float32 becomes the next states; seen (R, 2D), normed (R, D) and inner (R, F') of rows."""
    phase, size = 0, len(depth)
    for number in range(len(layers)):
        if number == 0:
            _see(progress, phase, x, embedding, depth, seen)
        else:
            norm(progress, phase, x, np.ones(size, np.float32), _EPSILON, normed)
        phase = meet(progress, phase, num_threads)
        gated_linear(progress, phase, form, normed if number else seen, layers[number, 0], inner)
        phase = meet(progress, phase, num_threads)
        add_linear(progress, phase, form, inner, layers[number, 1], x)
        phase = meet(progress, phase, num_threads)


@njit(nogil=True)
def _see(progress, phase, x, embedding, depth, seen):
    """The norms of states beside those of embeddings, to which what is learnt of the depth is added."""
    size = len(depth)
    ones, normed = np.ones(size, np.float32), np.empty(size, np.float32)
    row = take(progress, phase)
    while row < len(x):
        norm_row(x[row, :size], ones, _EPSILON, seen[row, :size])
        norm_row(embedding[row], ones, _EPSILON, normed)
        for i in range(size):
            seen[row, size + i] = as_row(seen, normed[i] + depth[i])
        row = take(progress, phase)


@njit(nogil=True, cache=True)
def _decode(
    thread,
    num_threads,
    progress,
    form,
    layers,
    norms,
    head_norms,
    last_norm,
    epsilon,
    numbers,
    scales,
    length,
    positions,
    turns,
    scale,
    unseen,
    heads,
    x,
    normed,
    qkv,
    queries,
    largest,
    totals,
    sums,
    attended,
    inner,
    hidden,
):
    """Arrays that are filled on the way: x (R, D') float32, the running sum of all layers; normed (R, D),
    attended (R, H · d) and inner (R, F') of rows; qkv (R, (H + 2G) · d) float32; and attention's.
    """
    phase = 0
    for number in range(len(layers)):
        products = layers[number]
        norm(progress, phase, x, norms[number, 0], epsilon, normed)
        phase = meet(progress, phase, num_threads)
        linear(progress, phase, form, normed, products[_QKV], qkv)
        phase = meet(progress, phase, num_threads)
        kept, kept_scales = numbers[:, number], _of_layer(scales, number)
        turn(
            progress,
            phase,
            qkv,
            head_norms[number],
            epsilon,
            turns,
            scale,
            length,
            kept,
            kept_scales,
            queries,
            heads,
        )
        phase = meet(progress, phase, num_threads)
        attend(progress, phase, queries, kept, kept_scales, length, positions, unseen, largest, totals, sums)
        phase = meet(progress, phase, num_threads)
        join(progress, phase, largest, totals, sums, heads[0], attended)
        phase = meet(progress, phase, num_threads)
        add_linear(progress, phase, form, attended, products[_OUTPUT], x)
        phase = meet(progress, phase, num_threads)
        norm(progress, phase, x, norms[number, 1], epsilon, normed)
        phase = meet(progress, phase, num_threads)
        gated_linear(progress, phase, form, normed, products[_GATE_UP], inner)
        phase = meet(progress, phase, num_threads)
        add_linear(progress, phase, form, inner, products[_DOWN], x)
        phase = meet(progress, phase, num_threads)
    norm(progress, phase, x, last_norm, epsilon, hidden)
    meet(progress, phase, num_threads)


@njit(nogil=True)
def _of_layer(scales, number):
    return None if scales is None else scales[:, number]
