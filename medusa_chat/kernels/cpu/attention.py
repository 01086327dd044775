"""Attention of a few rows over a KV cache, in float32, on the CPU.

The rows that read one key head, of all query heads in its group, are multiplied four at a time: first by
keys, 16 of which are the lanes of a vector, so they are transposed; then by values, as they lie. Keys
come in chunks of 128 positions, which are units of work; the chunks are then joined by the logarithm of
their sums.

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
from medusa_chat.kernels.cpu.panels import FEW_PANELS, FEW_ROWS, panels_few
from medusa_chat.kernels.cpu.pointwise import as_row, exp_of_negative, norm_row
from medusa_chat.kernels.cpu.team import take
from medusa_chat.kernels.cpu.transposing import transpose
from medusa_chat.kernels.cpu.vectors import LANES
from medusa_chat.kernels.kv_rows import LARGEST, LEAST

CHUNK = LEAN_CHUNK
_UNSEEN = np.float32(-np.inf)
_LOWEST = np.float32(-1e30)  # stands for the largest score of rows that see nothing
_FORM = np.empty(0, np.float32)
_BLOCK = FEW_PANELS * LANES  # keys, or columns of values, that are multiplied at once
_TILE = 32  # rows of one unit of work
_FLOAT = 4  # bytes
_LARGEST, _LEAST = np.float32(LARGEST), np.float32(LEAST)
_HALF = np.float32(0.5)


@inner()
def turn(progress, phase, qkv, norms, epsilon, turns, scale, start, numbers, scales, queries, heads):
    """Turns queries and keys to their positions and files them, with values, for `attend`.

    qkv (R, (H + 2G) · d) float32: of each row its query, key and value heads. norms (2, d): Qwen 3's of query
    and key heads, or (0, d). turns (R, 2, d / 2): cosines and sines. scale: of scores. numbers, scales: this
    layer's part of the cache (2, G, capacity, d), of which rows from `start` on are written (KVRows.write).
    queries (G, Q, d'): a group's rows, (query head, row) in turn. heads: H, G.
    """
    num_rows, head_dim = len(qkv), numbers.shape[3]
    num_heads, num_kv_heads = heads
    group = num_heads // num_kv_heads
    turned = np.empty(head_dim, np.float32)
    kv_head = take(progress, phase)
    while kv_head < num_kv_heads:
        for row in range(num_rows):
            place = start + row
            for head in range(kv_head * group, (kv_head + 1) * group):
                _turn_head(_head(qkv[row], head, head_dim), norms[:1], epsilon, turns[row], turned)
                query = (head % group) * num_rows + row
                for i in range(head_dim):
                    queries[kv_head, query, i] = turned[i] * scale
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

    queries (G, Q, d'), numbers, scales: as `turn` left them. length: committed rows, which all see.
    positions (R,): of the rows behind those. unseen (Q, R) float32: 0 where a query sees a row, else -inf.
    Written: largest scores and totals of weights (chunks, G, Q), sums of values (chunks, G, Q, d').
    """
    num_chunks, num_kv_heads, num_queries, width = sums.shape
    num_tiles = -(-num_queries // _TILE)
    room = -(-(CHUNK + len(positions)) // _BLOCK) * _BLOCK
    weights = np.empty((_TILE, room), np.float32)
    rows = np.empty((room, width), np.float32)
    turned = np.empty((room // LANES, width, LANES), np.float32)
    unit = take(progress, phase)
    while unit < num_chunks * num_kv_heads * num_tiles:
        chunk, rest = unit // (num_kv_heads * num_tiles), unit % (num_kv_heads * num_tiles)
        head, start = rest // num_tiles, rest % num_tiles * _TILE
        count = min(_TILE, num_queries - start)
        first_node, last_node = _nodes_of(chunk, positions)
        first = chunk * CHUNK
        if first < length:
            first_node = 0  # the first of all has the position behind the last committed row
        else:
            first = length + first_node
        last = length + last_node if last_node else min(first + CHUNK, length)
        keys, stride = _read(numbers, scales, 0, head, first, last, rows)
        size = keys, stride, last - first, numbers.shape[3]
        _multiply(queries[head, start : start + count], *size, turned, weights)
        for node in range(first_node, last_node):
            place = length + node - first
            is_here = positions[node] // CHUNK == chunk
            for query in range(count):
                seen = weights[query, place] + unseen[start + query, node]
                weights[query, place] = seen if is_here else _UNSEEN
        for query in range(count):
            largest[chunk, head, start + query] = _weigh(weights[query], last - first)
        for query in range(0, count, FEW_ROWS):
            _total(weights[query : query + FEW_ROWS], last - first, totals[chunk, head, start + query :])
        values, stride = _read(numbers, scales, 1, head, first, last, rows)
        _add_up(weights, values, stride, last - first, sums[chunk, head, start : start + count])
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


@inner(inline="always")
def _address(array):
    return np.int64(array.ctypes.data)  # numba's own is unsigned: with a signed number it makes a float


def _read(numbers, scales, part, head, first, last, room):
    """The address of the first row, and the bytes to the next; rows as wide as room's, where they may go."""
    raise NotImplementedError("compiled only")


@overload(_read)
def _compiled_read(numbers, scales, part, head, first, last, room):
    def whole(numbers, scales, part, head, first, last, room):
        if room.shape[1] == numbers.shape[3]:
            of_part, of_head, stride, _ = numbers.strides
            return _address(numbers) + part * of_part + head * of_head + first * stride, stride
        for place in range(first, last):
            for i in range(numbers.shape[3]):
                room[place - first, i] = numbers[part, head, place, i]
        return _address(room), room.strides[0]

    def of_8_bits(numbers, scales, part, head, first, last, room):
        for place in range(first, last):
            scale = scales[part, head, place, 0]
            for i in range(numbers.shape[3]):
                room[place - first, i] = np.float32(numbers[part, head, place, i]) * scale
        return _address(room), room.strides[0]

    return whole if numbers.dtype.bitwidth == 32 else of_8_bits


@inner()
def _multiply(queries, keys, stride, num_keys, head_dim, turned, out):
    """queries (q, d'), keys (n, d) -> scores (q, n)."""
    panel_stride = turned.strides[0]
    for key in range(0, num_keys, LANES):
        to = _address(turned) + key // LANES * panel_stride
        for i in range(0, head_dim * _FLOAT, LANES * _FLOAT):
            transpose(keys + key * stride + i, stride, num_keys - key, to + i * LANES)
    for query in range(0, len(queries), FEW_ROWS):
        row = _address(queries) + query * queries.strides[0]
        for key in range(0, num_keys, _BLOCK):
            at = _address(turned) + key // LANES * panel_stride
            to = _address(out) + query * out.strides[0] + key * _FLOAT
            rest = row, queries.strides[0], _FLOAT, head_dim, out.strides[0]
            panels_few(_FORM, _FORM, at, 0, to, panel_stride, LANES * _FLOAT, 0, 0, *rest)


@inner()
def _add_up(weights, values, stride, num_keys, out):
    """weights (q, n), values (n, d') -> (q, d')."""
    for query in range(0, len(out), FEW_ROWS):
        row = _address(weights) + query * weights.strides[0]
        for i in range(0, out.shape[1], _BLOCK):
            to = _address(out) + query * out.strides[0] + i * _FLOAT
            rest = row, weights.strides[0], _FLOAT, num_keys, out.strides[0]
            panels_few(_FORM, _FORM, values + i * _FLOAT, 0, to, LANES * _FLOAT, stride, 0, 0, *rest)


@inner()
def _weigh(scores, num_keys):
    """The first scores become weights, e^(score - largest). Returns the largest."""
    most = _largest(scores, num_keys)
    for i in range(num_keys):
        scores[i] = exp_of_negative(scores[i] - most)
    return most


@inner()
def _total(weights, num_keys, out):
    """Of four queries at once, for each sum waits for the addition before."""
    a = b = c = d = np.float32(0.0)
    for key in range(num_keys):
        a += weights[0, key]
        b += weights[1, key]
        c += weights[2, key]
        d += weights[3, key]
    out[0], out[1], out[2], out[3] = a, b, c, d


@inner(fastmath={"nnan", "nsz"})
def _largest(scores, num_keys):
    most = _LOWEST
    for i in range(num_keys):
        most = scores[i] if scores[i] > most else most
    return most


@inner()
def join(progress, phase, largest, totals, sums, num_heads, out):
    """What `attend` left -> out (R, H · d), as rows for the next product."""
    num_chunks, num_kv_heads, _, _ = sums.shape
    num_rows, group, head_dim = len(out), num_heads // num_kv_heads, out.shape[1] // num_heads
    shares, joined = np.empty(num_chunks, np.float32), np.empty(head_dim, np.float32)
    unit = take(progress, phase)
    while unit < num_rows * num_heads:
        row, head = unit // num_heads, unit % num_heads
        kv_head, query = head // group, (head % group) * num_rows + row
        _share_out(largest[:, kv_head, query], totals[:, kv_head, query], shares)
        for i in range(head_dim):
            joined[i] = np.float32(0.0)
        for chunk in range(num_chunks):
            for i in range(head_dim):
                joined[i] += sums[chunk, kv_head, query, i] * shares[chunk]
        for i in range(head_dim):
            out[row, head * head_dim + i] = as_row(out, joined[i])
        unit = take(progress, phase)


def num_queries(num_rows: int, group: int) -> int:
    """Q: rows of all query heads that read one key head, filled up to as many as are multiplied at once."""
    return -(-num_rows * group // FEW_ROWS) * FEW_ROWS


def width(head_dim: int) -> int:
    """d': a head's columns, filled up likewise."""
    return -(-head_dim // _BLOCK) * _BLOCK


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
