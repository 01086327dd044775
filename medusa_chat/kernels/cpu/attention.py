"""Attention of a few rows over a KV cache, in float32, on the CPU.

The rows that read one key head, of all query heads in its group, are taken 16 at a time as the lanes of a
vector: keys are multiplied as rows of a product whose weights are these queries, values likewise (panels.py),
so that each is read once for 16 of them. Keys come in chunks of 128 positions, which are units of work; the
chunks are then joined by the logarithm of their sums.

A row's bits are its own: a chunk's boundaries are positions, not places in the cache; its sums run over keys
by position, since a tree's nodes lie behind their parents; and what a row doesn't see adds 0.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba.extending import overload

from medusa_chat.decoder_memory import LEAN_CHUNK
from medusa_chat.kernels.cpu.compiling import inner
from medusa_chat.kernels.cpu.panels import (
    LANES,
    LOWEST,
    MOST_ROWS,
    lower_by_largest,
    panels_1_1,
    panels_most_1,
)
from medusa_chat.kernels.cpu.pointwise import as_row, exp_of_negative, norm_row
from medusa_chat.kernels.cpu.team import take
from medusa_chat.kernels.kv_rows import LARGEST, LEAST

CHUNK = LEAN_CHUNK
_UNSEEN = np.float32(-np.inf)
_LOWEST = np.float32(LOWEST)
_FORM, _ONE = np.empty(0, np.float32), np.ones(1, np.float32)
_LARGEST, _LEAST = np.float32(LARGEST), np.float32(LEAST)
_HALF = np.float32(0.5)


@inner()
def turn(progress, phase, qkv, norms, epsilon, turns, scale, start, numbers, scales, queries, heads):
    """Turns queries and keys to their positions and files them, with values, for `attend`.

    qkv (R, (H + 2G) · d) float32: of each row its query, key and value heads. norms (2, d): Qwen 3's of query
    and key heads, or (0, d). turns (R, 2, d / 2): cosines and sines. scale: of scores. numbers, scales: this
    layer's part of the cache (2, G, capacity, d), of which rows from `start` on are written (KVRows.write).
    queries (G, tiles, d, 16): lane l of a group's rows (query head, row) in turn. heads: H, G.
    """
    num_rows, head_dim = len(qkv), numbers.shape[3]
    num_heads, num_kv_heads = heads
    group = num_heads // num_kv_heads
    turned = np.empty(head_dim, np.float32)
    # A key head's all, not a row's: lanes are neighbours in memory, and no two threads should write a line.
    kv_head = take(progress, phase)
    while kv_head < num_kv_heads:
        for row in range(num_rows):
            place = start + row
            for head in range(kv_head * group, (kv_head + 1) * group):
                _turn_head(_head(qkv[row], head, head_dim), norms[:1], epsilon, turns[row], turned)
                lane = (head % group) * num_rows + row
                for i in range(head_dim):
                    queries[kv_head, lane // LANES, i, lane % LANES] = turned[i] * scale
            key = _head(qkv[row], num_heads + kv_head, head_dim)
            _turn_head(key, norms[1:], epsilon, turns[row], turned)
            _write(turned, numbers, scales, 0, kv_head, place)
            value = _head(qkv[row], num_heads + num_kv_heads + kv_head, head_dim)
            _write(value, numbers, scales, 1, kv_head, place)
        kv_head = take(progress, phase)


@inner()
def _head(row, number, head_dim):
    return row[number * head_dim : (number + 1) * head_dim]


@inner()
def _turn_head(head, norms, epsilon, turn, out):
    """head (d,), changed if norms (1, d) has one."""
    if len(norms):
        norm_row(head, norms[0], epsilon, head)
    half = len(head) // 2
    for i in range(half):
        out[i] = head[i] * turn[0, i] - head[half + i] * turn[1, i]
        out[half + i] = head[half + i] * turn[0, i] + head[i] * turn[1, i]


def _write(row, numbers, scales, part, head, place):
    raise NotImplementedError("compiled only")


@overload(_write)
def _compiled_write(row, numbers, scales, part, head, place):
    def whole(row, numbers, scales, part, head, place):
        for i in range(len(row)):  # a slice would bring in the wording of its errors: seconds to compile
            numbers[part, head, place, i] = row[i]

    def in_8_bits(row, numbers, scales, part, head, place):
        largest = _LEAST
        for value in row:
            largest = max(largest, abs(value))
        scale = largest / _LARGEST
        scales[part, head, place, 0] = scale
        for i in range(len(row)):
            numbers[part, head, place, i] = np.int8(math.floor(row[i] / scale + _HALF))

    return whole if numbers.dtype.bitwidth == 32 else in_8_bits


@inner()
def attend(progress, phase, queries, numbers, scales, length, positions, unseen, largest, totals, sums):
    """Each chunk's part of the answer, for `join`.

    queries, numbers, scales: as `turn` left them. length: committed rows, which all see. positions (R,): of
    the rows behind those. unseen (R, tiles, 16) float32: 0 where a lane sees a row, else -inf. Written:
    largest scores and totals of weights (chunks, G, tiles, 16), sums of values (chunks, G, tiles, d, 16).
    """
    num_chunks, num_kv_heads, num_tiles, head_dim, _ = sums.shape
    room = CHUNK + len(positions)
    weights = np.empty((room, LANES), np.float32)
    rows = np.empty((room, head_dim), np.float32)
    unit = take(progress, phase)
    while unit < num_chunks * num_kv_heads * num_tiles:
        chunk, rest = unit // (num_kv_heads * num_tiles), unit % (num_kv_heads * num_tiles)
        head, tile = rest // num_tiles, rest % num_tiles
        first = min(chunk * CHUNK, length)
        last = min(first + CHUNK, length) if chunk * CHUNK < length else length
        first_node, last_node = _nodes_of(chunk, positions)
        num_cached, num_nodes = last - first, last_node - first_node
        num_keys = num_cached + num_nodes
        query = queries[head, tile]
        _multiply(query, _read(numbers, scales, 0, head, first, last, rows), weights[:num_cached])
        node_rows = _read(numbers, scales, 0, head, length + first_node, length + last_node, rows)
        _multiply(query, node_rows, weights[num_cached:num_keys])
        for node in range(first_node, last_node):
            row = weights[num_cached + node - first_node]
            for lane in range(LANES):
                is_here = positions[node] // CHUNK == chunk
                row[lane] = row[lane] + unseen[node, tile, lane] if is_here else _UNSEEN
        _weigh(weights[:num_keys], largest[chunk, head, tile], totals[chunk, head, tile])
        out = sums[chunk, head, tile]
        cached_values = _read(numbers, scales, 1, head, first, last, rows)
        _add_up(weights[:num_cached], cached_values, out, 0)
        node_values = _read(numbers, scales, 1, head, length + first_node, length + last_node, rows)
        _add_up(weights[num_cached:num_keys], node_values, out, 1)
        unit = take(progress, phase)


@inner()
def _nodes_of(chunk, positions):
    """The first of the nodes at this chunk's positions, and the one after the last."""
    first, last = 0, 0
    for node in range(len(positions)):
        if positions[node] // CHUNK == chunk:
            first = first if last else node
            last = node + 1
    return first, last


def _read(numbers, scales, part, head, first, last, room):
    raise NotImplementedError("compiled only")


@overload(_read)
def _compiled_read(numbers, scales, part, head, first, last, room):
    def whole(numbers, scales, part, head, first, last, room):
        return numbers[part, head, first:last]

    def of_8_bits(numbers, scales, part, head, first, last, room):
        for place in range(first, last):
            scale = scales[part, head, place, 0]
            for i in range(room.shape[1]):
                room[place - first, i] = np.float32(numbers[part, head, place, i]) * scale
        return room[: last - first]

    return whole if numbers.dtype.bitwidth == 32 else of_8_bits


@inner()
def _multiply(query, keys, out):
    """query (d, 16), keys (n, d) -> scores (n, 16)."""
    data, length, stride = query.ctypes.data, len(query), keys.strides[0]
    key = 0
    while key + MOST_ROWS <= len(keys):
        at, to = keys.ctypes.data + key * stride, out.ctypes.data + key * out.strides[0]
        rest = at, stride, keys.itemsize, length, out.strides[0], 0
        panels_most_1(_FORM, _FORM, data, 0, to, 0, 0, 0, *rest)
        key += MOST_ROWS
    while key < len(keys):
        at, to = keys.ctypes.data + key * stride, out.ctypes.data + key * out.strides[0]
        panels_1_1(_FORM, _FORM, data, 0, to, 0, 0, 0, at, 0, keys.itemsize, length, 0, 0)
        key += 1


@inner()
def _add_up(weights, values, out, go_on):
    """weights (n, 16), values (n, d) -> (d, 16), added to what is there if go_on."""
    data, length, stride = weights.ctypes.data, len(weights), values.strides[0]
    place = 0
    while place + MOST_ROWS <= len(out):
        at, to = values.ctypes.data + place * values.itemsize, out.ctypes.data + place * out.strides[0]
        rest = at, values.itemsize, stride, length, out.strides[0], go_on
        panels_most_1(_FORM, _FORM, data, 0, to, 0, 0, 0, *rest)
        place += MOST_ROWS
    while place < len(out):
        at, to = values.ctypes.data + place * values.itemsize, out.ctypes.data + place * out.strides[0]
        panels_1_1(_FORM, _FORM, data, 0, to, 0, 0, 0, at, 0, stride, length, 0, go_on)
        place += 1


@inner()
def _weigh(scores, largest, totals):
    """Scores (n, 16) become weights, e^(score - largest)."""
    lower_by_largest(scores.ctypes.data, len(scores), largest.ctypes.data)
    flat = scores.reshape(-1)
    for i in range(len(flat)):
        flat[i] = exp_of_negative(flat[i])
    # One row of ones, times the weights.
    one, data, to = _ONE.ctypes.data, scores.ctypes.data, totals.ctypes.data
    panels_1_1(_FORM, _FORM, data, 0, to, 0, 0, 0, one, 0, 0, len(scores), 0, 0)


@inner()
def join(progress, phase, largest, totals, sums, num_heads, out):
    """What `attend` left -> out (R, H · d), as rows for the next product."""
    num_chunks, num_kv_heads, _, head_dim, _ = sums.shape
    num_rows, group = len(out), num_heads // num_kv_heads
    shares = np.empty(num_chunks, np.float32)
    unit = take(progress, phase)
    while unit < num_rows * num_heads:
        row, head = unit // num_heads, unit % num_heads
        lane = (head % group) * num_rows + row
        kv_head, tile, lane = head // group, lane // LANES, lane % LANES
        _share_out(largest[:, kv_head, tile, lane], totals[:, kv_head, tile, lane], shares)
        for i in range(head_dim):
            value = np.float32(0.0)
            for chunk in range(num_chunks):
                value += sums[chunk, kv_head, tile, i, lane] * shares[chunk]
            out[row, head * head_dim + i] = as_row(out, value)
        unit = take(progress, phase)


@inner()
def _share_out(largest, totals, shares):
    """What each chunk's sums count for: e^(largest - the largest of all), over the total."""
    most, total = _LOWEST, np.float32(0.0)
    for value in largest:
        most = max(most, value)
    for chunk in range(len(shares)):
        shares[chunk] = exp_of_negative(largest[chunk] - most)
        total += totals[chunk] * shares[chunk]
    for chunk in range(len(shares)):
        shares[chunk] /= total


def attention_reference(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, visible: torch.Tensor
) -> torch.Tensor:
    """queries (H, R, d) scaled, keys and values (G, S, d), visible (R, S) bool -> (R, H · d)."""
    group = len(queries) // len(keys)
    keys, values = (t.repeat_interleave(group, 0) for t in (keys, values))  # (H, S, d)
    scores = (queries @ keys.transpose(1, 2)).masked_fill(~visible, -torch.inf)
    return (scores.softmax(-1) @ values).transpose(0, 1).flatten(1)
