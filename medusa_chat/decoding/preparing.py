"""Kernels, compiled while a model is loaded: else replies would stand still at each form they meet.

On a GPU a product has one form for each height of its tile, filled by rows or not, and a draft one for each
number of nodes: some fifty in all, of which each takes a core a quarter to a whole second. Triton keeps on
disk what it has compiled, so later starts only read it. A CPU's are few, numba keeps them likewise, and most
of them are compiled ahead (engine/opening.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial

import torch

from medusa_chat.decoding.generate import new_context
from medusa_chat.decoding.planning import TREE_SIZES, Plan, fixed_plan
from medusa_chat.decoding.proposing import dynamic_candidates
from medusa_chat.decoding.tuning import measure_step
from medusa_chat.model.base import BaseModel
from medusa_chat.model.cache import KVCache
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.records import KVPrecision, LoadProgress

_PROMPTS = (16, 24, 32, 48, 64)  # rows: of each height of a tile, filled and not
_AT_ONCE = 4  # more take the memory that is planned for a step
_CACHE_ROWS = 128


def prepare_kernels(
    base: BaseModel,
    heads: MedusaHeads | None,
    kv_cache: KVPrecision,
    on_progress: Callable[[LoadProgress], None],
) -> None:
    """Runs a draft of each size and prompts of several lengths, side by side, on memory that is given back.
    Nothing where no kernels of ours run.
    """
    if base.is_compiled:
        on_progress(LoadProgress("Preparing the CPU's kernels, longer the first time"))
        smallest = fixed_plan(dynamic_candidates(heads), TREE_SIZES[1])
        measure_step(base, heads, new_context(base, heads, kv_cache), smallest)
    if not base.runs_in_graphs:
        return
    candidates = dynamic_candidates(heads, base.device)
    cache = base.new_cache(_CACHE_ROWS, kv_cache)
    sizes = [size for size in TREE_SIZES if 1 < size <= len(candidates)]
    runs: list[Callable[[], None]] = [
        *(partial(_run_step, base, heads, cache, fixed_plan(candidates, size)) for size in sizes),
        partial(_run_step, base, heads, cache, fixed_plan(candidates, 1)),
        *(partial(_run_prompt, base, cache, rows) for rows in _PROMPTS),
    ]
    on_progress(LoadProgress(f"Preparing the GPU's kernels, 1 of {len(runs)}", 0.0))
    runs[0]()  # alone: what all have in common would be compiled by each of them
    # Triton's interpreter, where there is no GPU, can't.
    num_at_once = min(_AT_ONCE, os.cpu_count() or 1) if base.device.type == "cuda" else 1
    with ThreadPoolExecutor(num_at_once, initializer=_use, initargs=(base.device,)) as threads:
        started = [threads.submit(run) for run in runs[1:]]
        for done, future in enumerate(as_completed(started), start=1):
            future.result()
            message = f"Preparing the GPU's kernels, {done + 1} of {len(runs)}"
            on_progress(LoadProgress(message, done / len(runs)))


def _use(device: torch.device) -> None:
    """Threads begin at the first GPU."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


@torch.inference_mode()
def _run_step(base: BaseModel, heads: MedusaHeads | None, cache: KVCache, plan: Plan) -> None:
    from medusa_chat.decoding.step_graphs import StepGraphs  # Triton's, which only a GPU's torch brings

    StepGraphs(base, heads).run_without_graph(plan, cache)


@torch.inference_mode()
def _run_prompt(base: BaseModel, cache: KVCache, num_rows: int) -> None:
    base.forward(torch.zeros(1, num_rows, dtype=torch.long, device=base.device), cache)
