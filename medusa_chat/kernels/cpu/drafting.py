"""Drafts of path-aware heads on the CPU: states a level further, or a whole draft in one call of the team.

The heads' weights and their LM head are read at every level; what lay between those products in torch took as
long again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medusa_chat.kernels.cpu.compiling import NO, YES, ZERO, inner, outer
from medusa_chat.kernels.cpu.linear import linear
from medusa_chat.kernels.cpu.packing import UNIT, PanelWeight, array, form, rows_dtype
from medusa_chat.kernels.cpu.pointwise import as_float, as_row, gate, log_sum_of_exponentials, norm, norm_row
from medusa_chat.kernels.cpu.team import meet, take, team

_EPSILON = np.float32(1e-6)  # of the heads' norms
_UNLIKELY = np.float32(-np.inf)


@dataclass(frozen=True, slots=True, eq=False)
class GatedWeights:
    """Of one layer."""

    gate_up: PanelWeight
    down: PanelWeight


@dataclass(frozen=True, slots=True)
class DraftFrame:
    """levels: of each depth, its nodes, all guesses of the beam. num_nodes: W; num_columns: X; num_wanted:
    nodes of which a draft is to be made.
    """

    levels: Sequence[range]
    num_nodes: int
    num_columns: int
    beam: int
    num_wanted: int


@dataclass(frozen=True, slots=True, eq=False)
class Grown:
    """As decoding's Weighed, of W nodes: joint (W,) float32; ids, parents (W,) and ancestors (W, X) int64."""

    joint: torch.Tensor
    ids: torch.Tensor
    parents: torch.Tensor
    ancestors: torch.Tensor


def advance(
    state: torch.Tensor, embedding: torch.Tensor, depth: torch.Tensor, layers: Sequence[GatedWeights]
) -> torch.Tensor:
    """As PathHeads.advance: states (R, D) and embeddings (R, D) of tokens, depth (D,) -> states (R, D)."""
    states = _States(len(state), state, layers)
    given = embedding.float().numpy(), depth.float().numpy()
    team().run(_advance, 4 * len(layers), form(layers[0].gate_up), *given, *states.arrays)
    return torch.from_numpy(states.x)[:, : state.shape[1]].to(state.dtype)


def grow(
    hidden: torch.Tensor,
    root: int,
    embedding: torch.Tensor,
    depths: torch.Tensor,
    layers: Sequence[GatedWeights],
    head: PanelWeight,
    vocabulary: torch.Tensor | None,
    frame: DraftFrame,
) -> Grown:
    """As decoding's grow. hidden (1, D): of the token before the root; embedding (V, D); depths (K, D)."""
    levels, beam, num_nodes = frame.levels, frame.beam, frame.num_nodes
    states = _States(beam, hidden, layers)
    guesses = np.array([len(level) // (beam if depth else 1) for depth, level in enumerate(levels)])
    grown = Grown(
        torch.full((num_nodes,), -torch.inf, dtype=torch.float32),
        torch.full((num_nodes,), root),
        torch.full((num_nodes,), num_nodes),
        torch.zeros(num_nodes, frame.num_columns, dtype=torch.int64),
    )
    grown.joint[0] = 0.0
    most = int(guesses.max())
    team().run(
        _grow,
        len(levels) * (4 * len(layers) + 4),
        form(layers[0].gate_up),
        array(embedding),
        depths.float().numpy(),
        np.empty(0, np.int64) if vocabulary is None else vocabulary.numpy(),
        head.address,
        head.num_outputs,
        np.array([level.start for level in levels]),
        guesses,
        frame.num_wanted,
        *(tensor.numpy() for tensor in (grown.joint, grown.ids, grown.parents, grown.ancestors)),
        *states.arrays,
        np.empty((beam, head.num_units * UNIT), np.float32),
        np.empty((beam, most), np.float32),
        np.empty((beam, most), np.int64),
        np.array([1] + beam * [0]),  # the root
    )
    return grown


class _States:
    """States of R rows, the first of them those given, and what is filled on the way from one level to the
    next. arrays: layers (L, 2, 10); x (R, D') and both (R, 2F) float32; seen (R, 2D), normed (R, D) and
    inner (R, F) of rows.
    """

    def __init__(self, num_rows: int, given: torch.Tensor, layers: Sequence[GatedWeights]) -> None:
        size, dtype, first = given.shape[1], rows_dtype(given.dtype), layers[0]
        x = torch.zeros(num_rows, first.down.num_units * UNIT, dtype=torch.float32)
        x[: len(given), :size] = given
        widths = 2 * size, size, first.down.num_inputs
        both = np.empty((num_rows, first.gate_up.num_units * UNIT), np.float32)
        addresses = np.stack([[layer.gate_up.address, layer.down.address] for layer in layers])
        self.x = x.numpy()
        rows = (array(torch.empty(num_rows, width, dtype=dtype)) for width in widths)
        self.arrays = addresses, self.x, both, *rows


@outer()
def _advance(thread, num_threads, progress, form, embedding, depth, layers, x, both, seen, normed, inner):
    phase = _see(progress, ZERO, num_threads, x, embedding, depth, seen)
    _through_layers(progress, phase, num_threads, form, layers, x, both, seen, normed, inner)


@outer()
def _grow(
    thread,
    num_threads,
    progress,
    form,
    embedding,
    depths,
    vocabulary,
    head,
    num_guessed,
    starts,
    guesses,
    num_wanted,
    joint,
    ids,
    parents,
    ancestors,
    layers,
    x,
    both,
    seen,
    normed,
    inner,
    logits,
    likely,
    ranked,
    beam,
):
    """likely and ranked (B, R): log-probabilities and numbers of each row's best guesses. beam (1 + B,): how
    many nodes grow on, and which.
    """
    phase, depth = ZERO, ZERO
    embedded = np.empty((len(x), depths.shape[1]), np.float32)
    while beam[0] > 0:
        rows = beam[0]
        for row in range(rows):
            for i in range(embedded.shape[1]):
                embedded[row, i] = as_float(embedding[ids[beam[1 + row]], i])
        state, normed_state = x[:rows], normed[:rows]
        phase = _see(progress, phase, num_threads, state, embedded, depths[depth], seen[:rows])
        between = both[:rows], seen[:rows], normed_state, inner[:rows]
        phase = _through_layers(progress, phase, num_threads, form, layers, state, *between)
        _narrow(progress, phase, state, normed_state)
        phase = meet(progress, phase, num_threads)
        linear(progress, phase, form, normed_state, head, logits[:rows], NO)
        phase = meet(progress, phase, num_threads)
        row = take(progress, phase)
        while row < rows:
            _rank(logits[row, :num_guessed], likely[row, : guesses[depth]], ranked[row])
            row = take(progress, phase)
        phase = meet(progress, phase, num_threads)
        if take(progress, phase) == 0:
            start, num_guesses = starts[depth], guesses[depth]
            _file(depth, start, num_guesses, likely, ranked, vocabulary, beam, joint, ids, parents, ancestors)
            level = joint[start : start + rows * num_guesses]
            _go_on(level, start, num_guesses, joint[: start + len(level)], num_wanted, beam, x)
            if depth == len(starts) - 1:
                beam[0] = 0
        phase = meet(progress, phase, num_threads)
        depth += 1


@inner()
def _see(progress, phase, num_threads, x, embedding, depth, seen):
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
    return meet(progress, phase, num_threads)


@inner()
def _through_layers(progress, phase, num_threads, form, layers, x, both, seen, normed, inner):
    """x (R, D') float32 becomes the next states."""
    ones = np.ones(normed.shape[1], np.float32)
    for number in range(len(layers)):
        if number:
            norm(progress, phase, x, ones, _EPSILON, normed)
            phase = meet(progress, phase, num_threads)
        linear(progress, phase, form, normed if number else seen, layers[number, 0], both, NO)
        phase = meet(progress, phase, num_threads)
        gate(progress, phase, both, inner)
        phase = meet(progress, phase, num_threads)
        linear(progress, phase, form, inner, layers[number, 1], x, YES)
        phase = meet(progress, phase, num_threads)
    return phase


@inner()
def _narrow(progress, phase, x, rows):
    row = take(progress, phase)
    while row < len(x):
        for i in range(rows.shape[1]):
            rows[row, i] = as_row(rows, x[row, i])
        row = take(progress, phase)


@inner()
def _rank(logits, likely, ranked):
    """The best of logits (V',), as many as `likely` has room for, best first: log-probabilities, numbers."""
    last = len(likely) - 1
    for place in range(last + 1):
        likely[place] = _UNLIKELY
    for number in range(len(logits)):
        if logits[number] > likely[last]:
            place = last
            while place > 0 and likely[place - 1] < logits[number]:
                likely[place], ranked[place] = likely[place - 1], ranked[place - 1]
                place -= 1
            likely[place], ranked[place] = logits[number], number
    largest = likely[0]
    total = largest + log_sum_of_exponentials(logits, largest)
    for place in range(last + 1):
        likely[place] -= total


@inner()
def _file(depth, start, num_guesses, likely, ranked, vocabulary, beam, joint, ids, parents, ancestors):
    """The guesses that follow each node of the beam, among the nodes."""
    for row in range(beam[0]):
        parent = beam[1 + row]
        for guess in range(num_guesses):
            node, number = start + row * num_guesses + guess, ranked[row, guess]
            joint[node] = joint[parent] + min(likely[row, guess], np.float32(0.0))
            ids[node] = vocabulary[number] if len(vocabulary) else number
            parents[node] = parent
            for column in range(ancestors.shape[1]):
                ancestors[node, column] = node if column > depth else ancestors[parent, column]


@inner()
def _go_on(level, start, num_guesses, joint, num_wanted, beam, x):
    """The level's likeliest become the beam, with the states they follow from; none if as many as are wanted
    of all nodes so far are as likely as they.
    """
    states, taken = x.copy(), np.zeros(len(level), np.bool_)
    beam[0] = min(len(x), len(level))
    for place in range(beam[0]):
        best = -1
        for node in range(len(level)):
            if not taken[node] and (best < 0 or level[node] > level[best]):
                best = node
        taken[best] = True
        beam[1 + place] = start + best
        for i in range(x.shape[1]):
            x[place, i] = states[best // num_guesses, i]
    as_likely = 0
    for value in joint:
        as_likely += value >= joint[beam[1]]
    if as_likely >= num_wanted:
        beam[0] = 0
