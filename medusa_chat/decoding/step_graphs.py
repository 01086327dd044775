"""Whole steps on a GPU (draft, verify, accept, commit) as CUDA graphs: one for each draft and size of cache.

The host only launches and reads: a step's root, hidden state and length are left on the device by the step
before. So the next step is launched before the last one's tokens are read, and the device never waits. What
is drawn, by which options and how long the cache is are read from device memory.

What it computes is generate.py's eager steps, which tests compare it with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch

from medusa_chat.decoding.device_drafts import draft_on_device
from medusa_chat.decoding.draft import Candidates, Draft
from medusa_chat.decoding.generate import Context, Step
from medusa_chat.decoding.growth import Growth
from medusa_chat.decoding.lookup import Chain, look_up
from medusa_chat.decoding.origins import origins_by_depth
from medusa_chat.decoding.planning import TREE_SIZES, Plan, plain_plan
from medusa_chat.decoding.proposing import propose_static
from medusa_chat.kernels.accepting import StepState, accept
from medusa_chat.kernels.attention import MAX_DEPTH, Placement, runs_reached
from medusa_chat.kernels.beside import beside, branch_off, rejoin
from medusa_chat.kernels.choice import choose_rows, rank_guesses
from medusa_chat.kernels.keeping import keep_path
from medusa_chat.kernels.kv_rows import KVRows
from medusa_chat.model.base import BaseModel
from medusa_chat.model.cache import KVCache
from medusa_chat.model.fused import FusedModel
from medusa_chat.model.giving_back import give_back_unused
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.records import SamplingOptions

_LEVELS = MAX_DEPTH + 1  # tokens that a step brings at most
_SLACK = _LEVELS  # places that the step under way may reach beyond what the host knows


@dataclass(frozen=True, slots=True)
class _Launched:
    """A step under way. Once the event has passed, result holds on the host: how many tokens, the tokens,
    and, or nothing, how many were to be expected of each of the sizes and of this step's draft, and its
    depth.
    """

    num_nodes: int
    done: torch.cuda.Event
    result: torch.Tensor  # (1 + W + sizes + 1,) float64, pinned
    num_places: int  # W
    num_heads: int  # that may have drafted
    sizes: tuple[int, ...]

    def read(self, seconds: Callable[[], float]) -> Step:
        """Waits for the step's tokens: the drafts kept and the next root."""
        self.done.synchronize()
        count, *rest = self.result.tolist()
        ids = [int(token) for token in rest[: int(count)]]
        *hopes, depth = rest[self.num_places :] or [self.num_heads]  # a static draft is as deep as its heads
        return Step(
            ids,
            # Which nodes were looked up stays on the device: telling it would take every step another launch.
            origins_by_depth(len(ids) - 1, self.num_heads),
            self.num_nodes,
            seconds(),
            min(int(depth), self.num_heads),
            hopes[-1] if hopes else None,
            dict(zip(self.sizes, hopes, strict=False)) if hopes else None,
        )


class StepGraphs:
    """The steps of one context. Graphs are captured when first needed, and again as the cache grows."""

    def __init__(self, base: BaseModel, heads: MedusaHeads | None) -> None:
        assert isinstance(base, FusedModel)
        self._base = base
        self._heads = heads
        device = base.device
        self._plain = plain_plan(device)
        self._graphs: dict[tuple[int, int | None], tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._plans: list[Plan] = []  # keeps the candidates alive whose addresses the graphs hold
        self._pool: Any = None  # of memory, which the graphs share
        self._store: KVRows | None = None
        # What one step leaves for the next.
        self._state = StepState(
            root=torch.zeros(1, dtype=torch.int64, device=device),
            hidden=torch.zeros(1, base.hidden_size, dtype=base.dtype, device=device),
            length=torch.zeros(1, dtype=torch.int32, device=device),
            text=torch.zeros(base.context_length + _SLACK, dtype=torch.int64, device=device),
        )
        # What the host decides.
        self._uniforms = torch.zeros(base.context_length + _SLACK, dtype=torch.float32, device=device)
        self._options = torch.zeros(4, dtype=torch.float32, device=device)
        self._current: tuple[float, ...] | None = None

    def can_do(self, options: SamplingOptions) -> bool:
        """Typical acceptance isn't done here."""
        return options.acceptance == "exact"

    def steps(
        self,
        context: Context,
        root: int,
        hidden: torch.Tensor,
        uniforms: torch.Tensor,
        options: Callable[[], SamplingOptions],
        plan: Callable[[SamplingOptions], Plan],
    ) -> Generator[Step, None, tuple[int, torch.Tensor]]:
        """Steps for as long as can_do says so; then the root and the hidden state (1, D) before it."""
        self._begin(context.ids, root, hidden, uniforms)
        before: _Launched | None = None
        started = time.perf_counter()
        while True:
            current = options()
            going_on = self.can_do(current)
            launched = self._launch(plan(current), context, current) if going_on else None
            if before is not None:
                step = before.read(lambda: time.perf_counter() - started)  # noqa: B023
                context.commit(range(len(step.ids)), [root, *step.ids[:-1]])
                root = step.ids[-1]
                started += step.seconds
                yield step
            if launched is None:
                return root, self._state.hidden.clone()
            before = launched

    def run_without_graph(self, plan: Plan, cache: KVCache) -> None:
        """A step from nothing, which compiles kernels and is good for nothing else."""
        self._base.reserve(cache, _num_nodes(plan) + _SLACK)
        self._step(plan, cache.store)

    def _begin(self, ids: list[int], root: int, hidden: torch.Tensor, uniforms: torch.Tensor) -> None:
        self._state.root.fill_(root)
        self._state.hidden.copy_(hidden)
        self._state.length.fill_(len(ids))
        self._state.text[: len(ids) + 1] = torch.tensor([*ids, root])
        self._uniforms[: len(uniforms)] = uniforms

    def _launch(self, plan: Plan, context: Context, options: SamplingOptions) -> _Launched:
        """Starts a step behind the one under way, of whose tokens the host doesn't know yet."""
        reached = len(context.ids) + _LEVELS + 1  # with the token that a whole draft brings besides
        if reached + plan.candidates.max_depth >= self._base.context_length:
            plan = self._plain
        wanted = (options.temperature, float(options.top_k), options.top_p, options.min_p)
        if wanted != self._current:
            self._options.copy_(torch.tensor(wanted))
            self._current = wanted
        num_nodes = _num_nodes(plan)
        self._base.reserve(context.cache, num_nodes + _SLACK)
        graph, result = self._graph(plan, context.cache)
        graph.replay()
        pinned = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        pinned.copy_(result, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        frame = plan.candidates
        return _Launched(num_nodes, done, pinned, frame.max_depth + 1, frame.num_heads, _sizes_of(frame))

    def _graph(self, plan: Plan, cache: KVCache) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        if self._store is not cache.store:
            if self._graphs:
                self._graphs.clear()
                self._plans.clear()
                self._pool = None  # a pool ends with the last of its graphs
                give_back_unused()  # but its memory would stay taken
            self._store = cache.store
        key = id(plan.candidates), _num_nodes(plan)
        if key not in self._graphs:
            self._graphs[key] = self._captured(plan, cache.store)
            self._plans.append(plan)
        return self._graphs[key]

    def _captured(self, plan: Plan, store: KVRows) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        state = self._state.root, self._state.hidden, self._state.length, self._state.text
        saved = [tensor.clone() for tensor in state]
        # Compiles kernels, outside of the capture; the rows it writes lie behind all that are kept.
        self._step(plan, store)
        for tensor, value in zip(state, saved, strict=True):
            tensor.copy_(value)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = self._step(plan, store)
        return graph, result

    def _step(self, plan: Plan, store: KVRows) -> torch.Tensor:
        """One step on device memory alone: a result as _Launched holds it."""
        base = self._base
        # Propose
        draft, expected = self._draft(plan, store.shape[4])
        # Verify
        placement = Placement(self._state.length, draft.depths, draft.paths, runs_reached(store.shape[4]))
        all_hidden = base.run(draft.ids, store, placement)  # (N, D)
        logits = base.logits(all_hidden)  # (N, V)
        # Accept
        chosen = choose_rows(logits, self._options, self._uniforms, self._state.length, draft.depths)
        path, before, result = accept(
            chosen, draft.ids, draft.parents, draft.depths, draft.paths, all_hidden, self._state, expected
        )
        # Commit
        if len(draft) > 1:
            for part in store.parts:
                keep_path(part, before, path)
        return result

    def _draft(self, plan: Plan, num_places: int) -> tuple[Draft, torch.Tensor]:
        """The draft; and, if that can be told, tokens to expect of each size and of it, and its depth."""
        frame, state = plan.candidates, self._state
        if plan.size is None:
            assert isinstance(frame, Candidates)
            root = state.root[0]
            draft = propose_static(frame, self._base, self._heads, state.hidden, root, rank_guesses)
            return draft, self._options[:0]
        chain = None
        if len(frame.chain) > 0:
            branch_off(self._base.device)
            with beside(self._base.device):
                chain = look_up(state.text[:num_places], state.length[0].long() + 1)

        def rejoined() -> Chain | None:
            if chain is not None:
                rejoin(self._base.device)
            return chain

        num_nodes = _num_nodes(plan)
        sizes = (*_sizes_of(frame), num_nodes)
        return draft_on_device(
            frame, self._base, self._heads, state.hidden, state.root, rejoined, num_nodes, sizes
        )


def _sizes_of(frame: Candidates | Growth) -> tuple[int, ...]:
    """Of drafts that it can give; a chain alone has few nodes."""
    return tuple(size for size in TREE_SIZES if size <= len(frame))


def _num_nodes(plan: Plan) -> int:
    """Decided beforehand: nobody looks at a pool on the device."""
    assert not callable(plan.size)
    return len(plan.candidates) if plan.size is None else plan.size
