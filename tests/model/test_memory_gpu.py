"""Plans against what a GPU then reports, for models of random weights from 1B to 13B."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

pytest.importorskip("triton")

from medusa_chat.bench.random_model import random_heads, random_model
from medusa_chat.bench.shapes import SHAPES, RandomKind, Shape
from medusa_chat.bench.steps import NUM_HEADS, step_seconds
from medusa_chat.decoder_memory import SPARE_ROWS
from medusa_chat.decoding.generate import new_context
from medusa_chat.machine import gpu_bytes_of_this_process
from medusa_chat.memory_plan import MemoryPlan, plan_memory
from medusa_chat.model.fastest import fastest
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.memory import bytes_of_this_process, memory_of, parts_taken
from medusa_chat.model_sizes import HeadSizes, ModelSizes, sizes_of
from medusa_chat.records import LMHeadPrecision, Quantization

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda", 0)
CONTEXT = 4096
_ROWS: list[str] = []


@pytest.fixture(autouse=True)
def _empty_gpu() -> Iterator[None]:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture(scope="module", autouse=True)
def _table() -> Iterator[None]:
    """Printed at the end: pytest -rA, or -s."""
    yield
    print("\nGB, planned / taken; all: of torch; with the program: by mem_get_info, by NVML")
    print("\n".join(_ROWS))


@dataclass(frozen=True, slots=True)
class Taken:
    """Bytes. loading: the most while decoder and heads were made. reserved: by torch, at most."""

    parts: dict[str, int]
    loading: int
    reserved: int
    on_card: int
    of_process: int | None


def outline(shape: Shape) -> ModelSizes:
    """As a checkpoint's headers would tell it."""
    from transformers import AutoModelForCausalLM

    config = shape.config(CONTEXT)
    with torch.device("meta"):
        causal_lm = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return sizes_of(config.to_dict(), {name: weight.shape for name, weight in causal_lm.named_parameters()})


def sizes_of_heads(heads: MedusaHeads) -> HeadSizes:
    lm_heads = getattr(heads, "lm_heads", None)
    own = 0 if lm_heads is None else lm_heads.numel()
    return HeadSizes(
        sum(weight.numel() for weight in heads.parameters()) - own,
        own,
        0 if heads.vocabulary is None else len(heads.vocabulary),
        heads.kind,
    )


def run(
    shape: Shape,
    quantization: Quantization,
    kind: RandomKind,
    num_context: int,
    lm_head: LMHeadPrecision = "full",
) -> tuple[MemoryPlan, Taken]:
    """A few steps of every size behind so many tokens, as the engine holds and runs a model."""
    base = random_model(shape, quantization, CUDA, torch.bfloat16, CONTEXT)
    heads = random_heads(base, NUM_HEADS, kind)
    plan = plan_memory(
        outline(shape),
        sizes_of_heads(heads),
        quantization,
        memory_of(CUDA, torch.bfloat16),
        CONTEXT,
        lm_head=lm_head,
    )
    heads = heads.cpu()  # from where the engine takes them
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    base, fast_heads = fastest(base, heads, lm_head)
    assert fast_heads is not None
    loading = torch.cuda.max_memory_allocated()
    del heads
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    context = new_context(base, fast_heads)
    for num_nodes in (1, 16, 64):
        step_seconds(base, fast_heads, num_nodes, context, num_context)
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info(CUDA)
    taken = Taken(
        parts_taken(base, fast_heads, context.cache),
        loading,
        torch.cuda.max_memory_reserved(),
        total - free,
        bytes_of_this_process(CUDA),
    )
    return plan, taken


def report(name: str, plan: MemoryPlan, taken: Taken) -> None:
    def both(planned: int, real: int) -> str:
        return f"{planned / 1e9:.2f} / {real / 1e9:.2f}"

    held = sum(taken.parts.values())
    of_torch = plan.total - plan.program
    nvml = "?" if taken.of_process is None else f"{taken.of_process / 1e9:.2f}"
    cells = [
        f"weights {both(plan.weights, taken.parts['weights'])}",
        f"heads {both(plan.heads, taken.parts['heads'])}",
        f"cache {both(plan.cache, taken.parts['cache'])}",
        f"workspace {both(plan.workspace, taken.reserved - held)}",
        f"all {both(of_torch, taken.reserved)} ({of_torch / taken.reserved - 1:+.1%})",
        f"with the program {both(plan.total, taken.on_card)}, {nvml}",
        f"loading {both(plan.loading, taken.loading)}",
    ]
    _ROWS.append(f"{name}: " + ", ".join(cells))


@pytest.mark.parametrize(
    ("shape", "quantization", "kind"),
    [
        ("llama-2-7b", "4bit", "block"),
        ("tinyllama", "4bit", "block"),
        ("tinyllama", "4bit", "path"),
        ("tinyllama", "8bit", "block"),
        ("tinyllama", "none", "block"),
        ("llama-2-7b", "4bit", "path"),
        ("llama-2-7b", "8bit", "path"),
        ("llama-2-7b", "none", "block"),
        ("qwen2.5-7b", "4bit", "path"),
        ("llama-3-8b", "4bit", "block"),
        ("llama-2-13b", "4bit", "block"),
    ],
)
def test_a_plan_is_within_a_tenth_of_what_is_taken(
    shape: str, quantization: Quantization, kind: RandomKind
) -> None:
    """A context of 4,096 tokens, nearly full."""
    plan, taken = run(SHAPES[shape], quantization, kind, 3600)
    is_first = not _ROWS  # a process that ran other models before has their kernels, too
    report(f"{shape} {quantization} {kind}", plan, taken)
    assert plan.total - plan.program == pytest.approx(taken.reserved, rel=0.1)
    if is_first and taken.of_process is not None:
        assert plan.total == pytest.approx(taken.of_process, rel=0.1)
    assert taken.loading <= 1.1 * plan.loading


@pytest.mark.parametrize("shape", ["llama-3-8b", "smollm2-135m"])
def test_so_it_is_with_an_lm_head_in_4_bits(shape: str) -> None:
    """One of its own, and one that is the embedding."""
    plan, taken = run(SHAPES[shape], "4bit", "path", 3600, "4bit")
    report(f"{shape} 4bit path, LM head 4bit", plan, taken)
    assert plan.weights == pytest.approx(taken.parts["weights"], rel=0.01)
    assert taken.reserved <= 1.1 * (plan.total - plan.program)
    # A model of 0.1 GB takes as much again for what is the same for all.
    assert taken.loading <= 1.1 * plan.loading + 0.1e9


def test_what_the_driver_takes() -> None:
    """Prints it, from the card's side: exact where nobody else uses the card."""
    torch.zeros(1, device=CUDA)
    free, total = torch.cuda.mem_get_info(CUDA)
    _ROWS.append(f"driver beside torch's: {(total - free - torch.cuda.memory_reserved()) / 1e6:.0f} MB")
    uuid = torch.cuda.get_device_properties(CUDA).uuid
    told = gpu_bytes_of_this_process(uuid)
    assert told is None or told > torch.cuda.memory_reserved()


def test_a_cache_shrinks_by_way_of_the_host() -> None:
    base = random_model(SHAPES["tinyllama"], "4bit", CUDA, torch.bfloat16, CONTEXT)
    base, _ = fastest(base, None)
    with torch.inference_mode():
        cache = base.new_cache()
        base.prefill(torch.arange(1500, device=CUDA)[None], cache)
        rows = cache.store.numbers[..., :1500, :].clone()
        before = torch.cuda.memory_allocated()
        taken = cache.num_bytes
        cache.shrink(2048)
        assert taken - cache.num_bytes == taken * (CONTEXT + SPARE_ROWS - 2048) // (CONTEXT + SPARE_ROWS)
        assert torch.cuda.memory_allocated() <= before - (taken - cache.num_bytes) + 2**20
        base.prefill(torch.arange(10, device=CUDA)[None], cache)
        assert torch.equal(cache.store.numbers[..., :1500, :], rows)
