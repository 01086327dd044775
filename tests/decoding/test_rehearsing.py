"""What a CPU compiles before there is a model is what the model then runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from numba import typeof

from medusa_chat.decoding.preparing import prepare_kernels
from medusa_chat.kernels.cpu.team import Team
from medusa_chat.model.base import BaseModel
from medusa_chat.model.lean import LeanModel, lean, rehearse
from medusa_chat.model.lean_heads import lean_heads
from medusa_chat.model.loading import load_base_model
from medusa_chat.records import KVPrecision, Quantization
from tests.tiny import random_path_heads, tiny_llama


def compiled_by(action: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> set[tuple[Any, ...]]:
    """The functions that the team runs in it, with the types of what they are given."""
    seen: set[tuple[Any, ...]] = set()
    run = Team.run

    def listen(team: Team, function: Callable[..., None], num_phases: int, *arguments: Any) -> None:
        seen.add((function.__name__, *map(typeof, arguments)))
        run(team, function, num_phases, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Team, "run", listen)
        action()
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_cache", ["full", "8bit"])
@torch.inference_mode()
def test_a_model_finds_all_compiled(
    dtype: torch.dtype, kv_cache: KVPrecision, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = lean(BaseModel(tiny_llama().causal_lm.bfloat16().to(dtype)))
    heads = lean_heads(random_path_heads(base, 3).to(dtype), base)
    needed = compiled_by(lambda: prepare_kernels(base, heads, kv_cache, lambda progress: None), monkeypatch)
    assert {name for name, *_ in needed} == {"_decode", "_multiply", "_grow"}
    torch.set_default_dtype(torch.bfloat16)  # as it is at times while transformers reads a model
    try:
        assert compiled_by(lambda: rehearse("none", dtype, kv_cache), monkeypatch) == needed
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
@torch.inference_mode()
def test_so_does_a_quantised_one(
    quantization: Quantization, default_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = lean(load_base_model(default_model, quantization, torch.device("cpu"), torch.bfloat16))
    assert isinstance(base, LeanModel)
    needed = compiled_by(lambda: prepare_kernels(base, None, "full", lambda progress: None), monkeypatch)
    assert needed < compiled_by(lambda: rehearse(quantization, torch.bfloat16, "full"), monkeypatch)


_ENDING = """
import threading, time
from medusa_chat.model.lean import rehearse
import torch
threading.Thread(target=rehearse, args=("none", torch.float32, "full"), daemon=True).start()
time.sleep({seconds})
raise SystemExit(7)
"""


@pytest.mark.parametrize("seconds", [0.2, 2])
def test_a_program_may_end_meanwhile(seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its status is its own."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    ended = subprocess.run(
        [sys.executable, "-c", _ENDING.format(seconds=seconds)], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (7, "")
