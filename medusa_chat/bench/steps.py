"""Whole steps on random weights: what verifying a tree of N nodes costs over a plain step."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch

from medusa_chat.bench.generation import generate_greedily
from medusa_chat.bench.random_model import random_heads, random_model
from medusa_chat.bench.shapes import RandomKind, Shape
from medusa_chat.bench.timing import copy_bandwidth
from medusa_chat.decoding.generate import Context, generate, new_context
from medusa_chat.decoding.lookup import MAX_CHAIN
from medusa_chat.decoding.planning import fixed_plan
from medusa_chat.decoding.proposing import dynamic_candidates
from medusa_chat.footprint import HALF
from medusa_chat.model.base import BaseModel
from medusa_chat.model.fastest import fastest
from medusa_chat.model.giving_back import give_back_unused
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.loading import device_name
from medusa_chat.records import KVPrecision, LMHeadPrecision, LoadProgress, Quantization, SamplingOptions

NUM_HEADS = 5
WEIGHTS = "random weights: nothing here tells how many drafts are accepted"
_NUM_WARM_UPS = 4
_NUM_TIMED = 50


def measure_steps(
    shape: Shape,
    quantization: Quantization,
    device: torch.device,
    dtype: torch.dtype,
    num_context: int,
    node_counts: Sequence[int],
    on_progress: Callable[[LoadProgress], None],
    *,
    head_kind: RandomKind = "block",
    kv_cache: KVPrecision = "full",
    lm_head: LMHeadPrecision = "full",
    with_generate: bool = False,
) -> dict[str, Any]:
    """The report of `bench step`: median steps of each number of nodes behind num_context tokens.

    Plain steps (one node) are always among them. with_generate times transformers' generate() too, first:
    an engine may take the weights out of transformers' modules.
    """
    on_progress(LoadProgress(f"Building {shape.name} of random weights"))
    # Random weights too may repeat themselves, and chains looked up be right to their end.
    room = (_NUM_WARM_UPS + _NUM_TIMED + 4) * (MAX_CHAIN + 1)
    base = random_model(shape, quantization, device, dtype, num_context + room)
    generate_seconds = _generate_seconds(base, num_context) if with_generate else None
    base, heads = fastest(base, random_heads(base, NUM_HEADS, head_kind), lm_head)
    assert heads is not None
    _forget_peak(device)
    context = new_context(base, heads, kv_cache)
    seconds = {}
    for nodes in sorted({1, *node_counts}):
        on_progress(LoadProgress(f"Steps of {nodes} nodes"))
        seconds[nodes] = statistics.median(step_seconds(base, heads, nodes, context, num_context))
    memory = _peak(device) or base.num_bytes + heads.num_bytes + context.cache.num_bytes
    bandwidth = copy_bandwidth(device)
    scale_bytes = HALF if device.type == "cuda" else 4  # our own kernels' (kernels/packing.py)
    bytes_read = shape.bytes_read(quantization, dtype.itemsize, num_context, kv_cache, lm_head, scale_bytes)
    report: dict[str, Any] = {
        "shape": shape.name,
        "weights": WEIGHTS,
        "quantization": quantization,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device.type,
        "machine": device_name(device),
        "context": num_context,
        "kv_cache": kv_cache,
        "lm_head": lm_head,
        "heads": NUM_HEADS,
        "head_kind": head_kind,
        "plain": {
            "ms_per_step": 1000 * seconds[1],
            "bytes_read": bytes_read,
            "share_of_bandwidth": bytes_read / seconds[1] / bandwidth,
        },
        "bandwidth": bandwidth,
        "steps": [
            {"nodes": nodes, "ms_per_step": 1000 * took, "over_plain": took / seconds[1]}
            for nodes, took in seconds.items()
        ],
        "memory_bytes": memory,
    }
    if generate_seconds is not None:
        report["generate"] = {"ms_per_step": 1000 * generate_seconds}
    return report


def step_seconds(
    base: BaseModel, heads: MedusaHeads, num_nodes: int, context: Context, num_context: int
) -> list[float]:
    """Wall time of whole steps (draft, verify, accept, commit, the read of the ids), the first ones left out.

    The context keeps its rows, so that only the first call with it runs the prompt.
    """
    plan = fixed_plan(dynamic_candidates(heads, base.device), num_nodes)
    options = SamplingOptions(temperature=0.0)
    prompt_ids = _prompt_ids(base, num_context)
    steps = generate(base, heads, context, prompt_ids, lambda: options, lambda _: plan)
    timed = islice(steps, 1 + _NUM_WARM_UPS, 1 + _NUM_WARM_UPS + _NUM_TIMED)  # the prefill comes first
    return [step.seconds for step in timed]


def _generate_seconds(base: BaseModel, num_context: int) -> float:
    """Of one token of transformers' generate()."""
    reply = generate_greedily(base.causal_lm, _prompt_ids(base, num_context), _NUM_WARM_UPS + _NUM_TIMED)
    return statistics.median(reply.step_seconds[_NUM_WARM_UPS:])


def _prompt_ids(base: BaseModel, num_context: int) -> list[int]:
    """Ids no text would hold, which cost what any others do."""
    return [(i * 7919) % base.vocab_size for i in range(num_context)]


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        give_back_unused()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int | None:
    """Most memory torch has held on a GPU, graphs and workspace included; None on a CPU."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
