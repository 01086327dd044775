"""Whole steps on a GPU (draft, verify, accept, commit) as CUDA graphs, one for each tree and size of cache.

The host only launches and reads: a step's root, hidden state and length are left on the device by the step
before. So the next step is launched before the last one's tokens are read, and the device never waits. What
is drawn, by which options and how long the cache is are read from device memory.

What it computes is generate.py's loop over draft.py and acceptance.py, which tests compare it with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medusa_chat.decoding.acceptance import accept_on_device
from medusa_chat.decoding.draft import Candidates, draft_best, pool_candidates
from medusa_chat.decoding.lookup import look_up
from medusa_chat.kernels.attention import Placement, runs_reached
from medusa_chat.kernels.choice import choose_rows, rank_guesses
from medusa_chat.model.cache import KVCache
from medusa_chat.model.fused import FusedModel
from medusa_chat.model.fused_heads import FusedHeads
from medusa_chat.records import SamplingOptions


@dataclass(frozen=True, slots=True)
class Tree:
    """What a step drafts: the best num_nodes of these candidates."""

    candidates: Candidates
    num_nodes: int


@dataclass(frozen=True, slots=True)
class Launched:
    """A step under way. Its tokens are on the host once the event has passed."""

    num_nodes: int
    done: torch.cuda.Event
    result: torch.Tensor  # (1 + W,) int64, pinned: how many tokens, then the tokens

    def read(self) -> list[int]:
        """Waits for the step's tokens: the drafts kept and the next root."""
        self.done.synchronize()
        count, *tokens = self.result.tolist()
        return tokens[:count]


class StepGraphs:
    """The steps of one context. Graphs are captured as they are first needed, and again as the cache grows."""

    def __init__(self, base: FusedModel, heads: FusedHeads | None) -> None:
        self._base = base
        self._heads = heads
        device = base.device
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._store: torch.Tensor | None = None
        self._num_launched = 0
        # What one step leaves for the next.
        self._root = torch.zeros(1, dtype=torch.int64, device=device)
        self._hidden = torch.zeros(1, base.hidden_size, dtype=base.dtype, device=device)
        self._length = torch.zeros(1, dtype=torch.int32, device=device)
        self._ids = torch.zeros(base.context_length + 256, dtype=torch.int64, device=device)
        # What the host decides.
        self._uniforms = torch.zeros(base.context_length + 256, dtype=torch.float32, device=device)
        self._options = torch.zeros(4, dtype=torch.float32, device=device)
        self._current_options: tuple[float, ...] | None = None

    def begin(self, ids: list[int], root: int, hidden: torch.Tensor, uniforms: torch.Tensor) -> None:
        """Behind a prompt: ids in the cache, the token after them, the last one's hidden state (1, D), and the
        number for the token after each position.
        """
        self._root.fill_(root)
        self._hidden.copy_(hidden)
        self._length.fill_(len(ids))
        self._ids[: len(ids) + 1] = torch.tensor([*ids, root])
        self._uniforms[: len(uniforms)] = uniforms

    def launch(self, tree: Tree, cache: KVCache, options: SamplingOptions) -> Launched:
        """Starts a step behind all those started before, for which the cache has room."""
        self._set(options)
        graph, result = self._graph(tree, cache)
        graph.replay()
        self._num_launched += 1
        pinned = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        pinned.copy_(result, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        return Launched(tree.num_nodes, done, pinned)

    def _set(self, options: SamplingOptions) -> None:
        wanted = (options.temperature, float(options.top_k), options.top_p, options.min_p)
        if wanted != self._current_options:
            self._options.copy_(torch.tensor(wanted))
            self._current_options = wanted

    def _graph(self, tree: Tree, cache: KVCache) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        if self._store is not cache.store:
            self._graphs.clear()
            self._store = cache.store
        key = (id(tree.candidates), tree.num_nodes)
        if key not in self._graphs:
            self._graphs[key] = self._captured(tree, cache.store)
        return self._graphs[key]

    def _captured(self, tree: Tree, store: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        state = (self._root, self._hidden, self._length, self._ids)
        saved = [tensor.clone() for tensor in state]
        self._step(tree, store)  # kernels are compiled outside of the capture
        for tensor, value in zip(state, saved, strict=True):
            tensor.copy_(value)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = self._step(tree, store)
        return graph, result

    def _step(self, tree: Tree, store: torch.Tensor) -> torch.Tensor:
        """One step on device memory alone. Returns (1 + W,) int64: how many tokens, then the tokens."""
        candidates, base = tree.candidates, self._base
        # Propose
        ids, log_probs = self._guesses(candidates)
        chain = look_up(self._ids, self._length + 1) if len(candidates.chain) else None
        pool = pool_candidates(self._root[0], ids, log_probs, candidates, chain)
        draft = draft_best(pool, candidates, tree.num_nodes)
        # Verify
        placement = Placement(self._length, draft.depths, draft.paths, runs_reached(store.shape[4]))
        all_hidden = base.run(draft.ids, store, placement)  # (N, D)
        logits = base.logits(all_hidden)  # (N, V)
        # Accept
        uniforms = self._uniforms[self._length + draft.depths]
        chosen = choose_rows(logits, self._options, uniforms)
        path, num_kept, next_root, emitted = accept_on_device(chosen, draft)
        # Commit
        places = torch.arange(len(path), device=path.device)
        if tree.num_nodes > 1:
            kept = store.index_select(4, self._length + path)
            store.index_copy_(4, self._length + places, kept)
        self._ids.index_copy_(0, self._length + 1 + places, emitted)
        self._hidden.copy_(all_hidden[path[-1:]])
        self._root.copy_(next_root)
        self._length.add_(num_kept)
        return torch.cat([num_kept.view(1), emitted])

    def _guesses(self, candidates: Candidates) -> tuple[torch.Tensor, torch.Tensor]:
        if self._heads is None or candidates.num_heads == 0:
            nothing = torch.empty(0, 0, device=self._root.device)
            return nothing.long(), nothing
        return rank_guesses(self._heads.logits(self._hidden)[: candidates.num_heads], candidates.num_ranks)
