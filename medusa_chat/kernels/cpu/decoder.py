"""A forward of all decoder layers, in one call of the team; and one product alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medusa_chat.kernels.cpu.attention import CHUNK, attend, join, num_queries, turn, width
from medusa_chat.kernels.cpu.compiling import NO, YES, ZERO, inner, outer
from medusa_chat.kernels.cpu.linear import linear
from medusa_chat.kernels.cpu.packing import UNIT, PanelWeight, array, form
from medusa_chat.kernels.cpu.pointwise import gate, norm
from medusa_chat.kernels.cpu.team import meet, team
from medusa_chat.kernels.kv_rows import KVRows

_PHASES_OF_A_LAYER = 10
_QKV, _OUTPUT, _GATE_UP, _DOWN = range(4)


def multiply(rows: torch.Tensor, weight: PanelWeight) -> torch.Tensor:
    """rows (R, K) in a dtype of rows -> (R, N) float32."""
    out = torch.empty(len(rows), weight.num_units * UNIT, dtype=torch.float32)
    team().run(_multiply, 1, form(weight), array(rows), weight.address, array(out))
    return out[:, : weight.num_outputs]


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """Of one decoder layer. head_norms (2, d), or (0, d)."""

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
        turns: np.ndarray[Any, Any],
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
        group = self._num_heads // kv_heads
        queries, columns = num_queries(num_rows, group), width(head_dim)
        num_chunks = int(positions.numpy().max()) // CHUNK + 1
        unseen = np.zeros((queries, num_rows), np.float32)
        of_rows = np.where(visible.numpy(), np.float32(0), np.float32(-np.inf))
        unseen[: group * num_rows] = np.tile(of_rows, (group, 1))
        running = np.zeros((num_rows, first.down.num_units * UNIT), np.float32)  # the output's too
        running[:, :size] = x.float().numpy()
        hidden = torch.empty(num_rows, size, dtype=dtype)
        team().run(
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
            turns,
            np.float32(scale),
            unseen,
            (self._num_heads, kv_heads),
            running,
            array(torch.empty(num_rows, size, dtype=dtype)),
            np.empty((num_rows, first.qkv.num_units * UNIT), np.float32),
            np.zeros((kv_heads, queries, columns), np.float32),
            np.empty((num_chunks, kv_heads, queries), np.float32),
            np.empty((num_chunks, kv_heads, queries), np.float32),
            np.empty((num_chunks, kv_heads, queries, columns), np.float32),
            array(torch.empty(num_rows, self._num_heads * head_dim, dtype=dtype)),
            np.empty((num_rows, first.gate_up.num_units * UNIT), np.float32),
            array(torch.empty(num_rows, first.down.num_inputs, dtype=dtype)),
            array(hidden),
        )
        return hidden


@outer()
def _multiply(thread, num_threads, progress, form, rows, weight, out):
    linear(progress, ZERO, form, rows, weight, out, NO)
    meet(progress, ZERO, num_threads)


@outer()
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
    both,
    inner,
    hidden,
):
    """Arrays that are filled on the way: x (R, D') float32, the running sum of all layers; normed (R, D),
    attended (R, H · d) and inner (R, F) of rows; qkv (R, (H + 2G) · d) and both (R, 2F) float32; and
    attention's.
    """
    phase = ZERO
    for number in range(len(layers)):
        products = layers[number]
        norm(progress, phase, x, norms[number, 0], epsilon, normed)
        phase = meet(progress, phase, num_threads)
        linear(progress, phase, form, normed, products[_QKV], qkv, NO)
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
        linear(progress, phase, form, attended, products[_OUTPUT], x, YES)
        phase = meet(progress, phase, num_threads)
        norm(progress, phase, x, norms[number, 1], epsilon, normed)
        phase = meet(progress, phase, num_threads)
        linear(progress, phase, form, normed, products[_GATE_UP], both, NO)
        phase = meet(progress, phase, num_threads)
        gate(progress, phase, both, inner)
        phase = meet(progress, phase, num_threads)
        linear(progress, phase, form, inner, products[_DOWN], x, YES)
        phase = meet(progress, phase, num_threads)
    norm(progress, phase, x, last_norm, epsilon, hidden)
    meet(progress, phase, num_threads)


@inner()
def _of_layer(scales, number):
    return None if scales is None else scales[:, number]
