"""All that replies need is compiled while a model is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from triton import knobs
from triton.runtime.jit import JITFunction

from medusa_chat.bench.random_model import random_heads, random_model
from medusa_chat.bench.shapes import SHAPES, RandomKind
from medusa_chat.decoding import preparing
from medusa_chat.decoding.generate import generate, new_context
from medusa_chat.decoding.planning import TREE_SIZES, fixed_plan
from medusa_chat.decoding.preparing import prepare_kernels
from medusa_chat.decoding.proposing import dynamic_candidates
from medusa_chat.model.base import BaseModel
from medusa_chat.model.fastest import fastest
from medusa_chat.model.fused import FusedModel
from medusa_chat.model.fused_heads import fused_heads
from medusa_chat.records import KVPrecision, LMHeadPrecision, LoadProgress, Quantization, SamplingOptions
from tests.tiny import random_path_heads, tiny_llama

CUDA = torch.device("cuda")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("with_heads", [True, False])
def test_every_size_and_length_is_run_and_told(monkeypatch: pytest.MonkeyPatch, with_heads: bool) -> None:
    """A few of them: Triton's interpreter takes its time."""
    monkeypatch.setattr(preparing, "TREE_SIZES", (1, 4))
    monkeypatch.setattr(preparing, "_PROMPTS", (3,))
    device = CUDA if torch.cuda.is_available() else torch.device("cpu")
    # In float16: the interpreter has no product in bfloat16.
    base = FusedModel(BaseModel(tiny_llama(hidden_size=64).causal_lm.to(device, torch.float16)))
    heads = fused_heads(random_path_heads(base, 2), base) if with_heads else None
    rows: list[int] = []
    run = base.run
    monkeypatch.setattr(base, "run", lambda ids, *where: [rows.append(len(ids)), run(ids, *where)][1])
    told: list[LoadProgress] = []
    prepare_kernels(base, heads, "8bit", told.append)
    assert sorted(rows) == [1, 3, 4]
    assert [line.message for line in told] == [f"Preparing the GPU's kernels, {n} of 3" for n in (1, 2, 3)]
    assert [line.fraction for line in told] == [0, 1 / 3, 2 / 3]


def test_where_no_kernels_run_none_are_prepared() -> None:
    prepare_kernels(tiny_llama(), None, "full", lambda progress: pytest.fail(progress.message))


@contextmanager
def compiled() -> Iterator[list[str]]:
    """The kernels that are compiled, or read from the disk, within the block."""
    names: list[str] = []
    before = knobs.runtime.jit_post_compile_hook
    knobs.runtime.jit_post_compile_hook = lambda *, fn, **_: names.append(fn.name)
    try:
        yield names
    finally:
        knobs.runtime.jit_post_compile_hook = before


def forget_kernels() -> None:
    """As in a new process: tests before this one have some."""
    for name, module in list(sys.modules.items()):
        if name.startswith("medusa_chat.kernels"):
            for value in vars(module).values():
                if isinstance(value, JITFunction):
                    value.device_caches.clear()


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("quantization", ["none", "8bit", "4bit"])
@pytest.mark.parametrize(
    ("kind", "kv_cache", "lm_head"),
    [("path", "full", "full"), ("block", "8bit", "4bit"), (None, "full", "full")],
)
def test_no_reply_waits_for_a_kernel(
    quantization: Quantization, kind: RandomKind | None, kv_cache: KVPrecision, lm_head: LMHeadPrecision
) -> None:
    model = random_model(SHAPES["smollm2-135m"], quantization, CUDA, torch.bfloat16, 3000)
    base, heads = fastest(model, None if kind is None else random_heads(model, 5, kind), lm_head)
    forget_kernels()
    with compiled() as prepared:
        prepare_kernels(base, heads, kv_cache, lambda progress: None)
    assert prepared
    candidates, options = dynamic_candidates(heads, CUDA), SamplingOptions(temperature=0.7)
    context = new_context(base, heads, kv_cache)
    with compiled() as late:
        # From 1,024 rows on the cache shows more, and graphs are captured anew.
        for num_prompt in (1, 5, 16, 20, 32, 40, 64, 100, 128, 150, 1200):
            for size in (size for size in TREE_SIZES if size <= len(candidates)):
                plan = fixed_plan(candidates, size)
                prompt = [(i * 7919 + size) % base.vocab_size for i in range(num_prompt)]
                steps = generate(base, heads, context, prompt, lambda: options, lambda _, plan=plan: plan)
                assert len(list(islice(steps, 4))) == 4
    assert late == []


@gpu
@pytest.mark.gpu
def test_the_seconds_of_a_first_start_and_of_later_ones(
    tmp_path: Path, default_model_here: str, home: Path
) -> None:
    """Prints them: pytest -rA, or -s."""

    def seconds() -> dict[str, float]:
        program = f"from medusa_chat import load; load({default_model_here!r}).close()"
        environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "triton")}
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)
        kept: Any = json.loads((home / "cache" / "last-load.json").read_text())
        return dict(kept["seconds"])

    first, later = seconds(), seconds()
    for name, took in (("first", first), ("later", later)):
        print(name, {part: round(value, 2) for part, value in took.items()})
    assert first["kernels"] + first["measuring"] < 60
    assert later["kernels"] + later["measuring"] < 3
