"""The arithmetic of a plan, the context it chooses, and what it says when nothing fits."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from medusa_chat.bench.random_model import random_heads, random_model
from medusa_chat.bench.shapes import SHAPES, Shape
from medusa_chat.decoder_memory import SPARE_ROWS
from medusa_chat.errors import OutOfMemory
from medusa_chat.machine import Memory
from medusa_chat.memory_plan import MemoryPlan, choose_plan, longest_fitting, plan_memory
from medusa_chat.model.fastest import fastest
from medusa_chat.model_sizes import HeadSizes, ModelSizes, own_context, sizes_about, sizes_of
from medusa_chat.records import LMHeadPrecision, Quantization
from tests.bench.shapes import GROUPED, TIED_WITH_BIAS

GB = 10**9
CPU = torch.device("cpu")


def card(free: float) -> Memory:
    return Memory("cuda", "A graphics card", 80 * GB, int(free * GB), 2)


def outline(shape: Shape, context_length: int = 4096) -> ModelSizes:
    """As headers would tell it."""
    config = shape.config(context_length)
    with torch.device("meta"):
        causal_lm = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    shapes = {name: weight.shape for name, weight in causal_lm.named_parameters()}
    return sizes_of(config.to_dict(), shapes)


def block_heads(shape: Shape, num_heads: int = 5) -> HeadSizes:
    """Of one block and an LM head each."""
    size = shape.hidden_size
    return HeadSizes(num_heads * size * (size + 1), num_heads * size * shape.vocab_size)


LLAMA_7B, LLAMA_13B = outline(SHAPES["llama-2-7b"]), outline(SHAPES["llama-2-13b"])
HEADS_7B, HEADS_13B = block_heads(SHAPES["llama-2-7b"]), block_heads(SHAPES["llama-2-13b"])


def chosen(quantization: Quantization, free: float, asked: int | None = None) -> MemoryPlan:
    return choose_plan("vicuna-13b", LLAMA_13B, HEADS_13B, quantization, card(free), asked)


def test_a_7b_model_in_four_bits_part_by_part() -> None:
    plan = plan_memory(LLAMA_7B, HEADS_7B, "4bit", card(80), 4096)
    linears = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    whole = 2 * 32000 * 4096 + 65 * 4096
    table = (4096 + 64) * 128 * 4
    assert plan.weights == linears // 2 + 2 * linears // 64 + 2 * whole + table
    in_heads = 5 * 4096 * (4097 + 32000)
    assert plan.heads == in_heads // 2 + 2 * in_heads // 64
    assert plan.cache == (4096 + 64) * 524_288
    assert plan.total == plan.weights + plan.heads + plan.cache + plan.workspace + plan.program
    assert plan.peak >= plan.total
    assert plan.total < 7.5 * GB


def test_a_cache_in_8_bits_is_planned_and_advised() -> None:
    full, small = (plan_memory(LLAMA_7B, None, "4bit", card(80), 4096, kind) for kind in ("full", "8bit"))
    assert small.cache == full.cache * 132 // 256
    assert replace(small, cache=full.cache) == full
    with pytest.raises(OutOfMemory, match=r"Try --kv-cache 8bit or --context 4,?\d+\."):
        choose_plan("vicuna-7b", replace(LLAMA_7B, context=8192), None, "4bit", card(7.5), 8000)
    choose_plan("vicuna-7b", replace(LLAMA_7B, context=8192), None, "4bit", card(7.5), 8000, "8bit")


def test_an_lm_head_in_4_bits_is_planned() -> None:
    """Less than the whole one, or beside a tied embedding more, once it is loaded."""

    def planned(model: ModelSizes, lm_head: LMHeadPrecision, memory: Memory) -> MemoryPlan:
        return plan_memory(model, None, "4bit", memory, 4096, lm_head=lm_head)

    numbers = 32000 * 4096
    tied = replace(LLAMA_7B, is_tied=True)
    for model, more in ((LLAMA_7B, numbers * 17 // 32 - 2 * numbers), (tied, numbers * 17 // 32)):
        full, small = planned(model, "full", card(80)), planned(model, "4bit", card(80))
        assert small == replace(full, weights=full.weights + more)
    cpu = Memory("cpu", "this machine", 64 * GB, 64 * GB, 2)
    assert planned(LLAMA_7B, "4bit", cpu) == planned(LLAMA_7B, "full", cpu)


@pytest.mark.parametrize("quantization", ["none", "8bit", "4bit"])
@pytest.mark.parametrize("shape", [GROUPED, TIED_WITH_BIAS], ids=lambda shape: shape.name)
@torch.inference_mode()
def test_on_a_cpu_a_plan_is_what_is_taken(shape: Shape, quantization: Quantization) -> None:
    """But for the norms, which decoders turn to float32, and biases."""
    base = random_model(shape, quantization, CPU, torch.bfloat16, 2048 - SPARE_ROWS)
    base, heads = fastest(base, random_heads(base, 3))
    assert heads is not None
    cache = base.new_cache()
    base.prefill(torch.arange(1100)[None] % shape.vocab_size, cache)
    memory = Memory("cpu", "this machine", 64 * GB, 64 * GB, 2)
    plan = plan_memory(outline(shape), block_heads(shape, 3), quantization, memory, 2048 - SPARE_ROWS)
    assert plan.weights == pytest.approx(base.num_bytes, rel=0.02)
    assert plan.heads == heads.num_bytes
    assert plan.cache == cache.num_bytes


def test_the_model_s_own_context_if_it_fits_else_the_longest_that_does() -> None:
    assert chosen("4bit", 16).context_length == 4096
    plan = chosen("4bit", 12)
    assert 1024 <= plan.context_length < 4096
    assert plan.context_length % 256 == 0
    assert plan.peak <= 12 * GB
    longer = plan_memory(LLAMA_13B, HEADS_13B, "4bit", card(12), plan.context_length + 256)
    assert longer.peak > 0.97 * 12 * GB
    short = replace(LLAMA_13B, context=600)
    assert choose_plan("short", short, HEADS_13B, "4bit", card(12), None).context_length == 600
    assert longest_fitting(LLAMA_13B, HEADS_13B, "none", card(12), 12 * GB) is None


def test_a_context_that_is_asked_for_is_had_or_refused() -> None:
    assert chosen("4bit", 16, 2048).context_length == 2048
    assert chosen("4bit", 16, 8192).context_length == 4096  # at most the model's own
    assert chosen("4bit", 12, 512).context_length == 512
    fitting = chosen("4bit", 12).context_length
    advice = rf"with 4,096 tokens of context.* Try --kv-cache 8bit or --context {fitting}\.$"
    with pytest.raises(OutOfMemory, match=advice):
        chosen("4bit", 12, 4096)


@pytest.mark.parametrize(
    ("quantization", "free", "advice"),
    [
        ("none", 24, "Try --quant 8bit."),
        ("none", 12, "Try --quant 4bit."),
        ("4bit", 6, "Free some memory, use --device cpu or choose a smaller model."),
    ],
)
def test_a_refusal_says_what_would_fit(quantization: Quantization, free: float, advice: str) -> None:
    with pytest.raises(OutOfMemory) as refused:
        chosen(quantization, free)
    held = {"none": "unquantised", "8bit": "in 8 bits", "4bit": "in 4 bits"}[quantization]
    sentence = str(refused.value)
    assert sentence.startswith(f"vicuna-13b {held} needs ")
    assert f" GB with 1,024 tokens of context, and {free:.1f} GB are free. " in sentence
    assert sentence.endswith(advice)


def test_a_refusal_names_a_short_context_that_would_fit() -> None:
    free = plan_memory(LLAMA_7B, HEADS_7B, "8bit", card(80), 800).total / 0.97
    memory = card(free / GB)
    with pytest.raises(OutOfMemory, match=r"Try --quant 4bit, --kv-cache 8bit or --context 768\.$"):
        choose_plan("vicuna-7b", LLAMA_7B, HEADS_7B, "8bit", memory, None)
    assert choose_plan("vicuna-7b", LLAMA_7B, HEADS_7B, "8bit", memory, 768).context_length == 768


def test_on_a_cpu_no_other_device_is_advised() -> None:
    memory = Memory("cpu", "this machine", 8 * GB, 4 * GB, 4)
    with pytest.raises(OutOfMemory, match=r"are free\. Free some memory or choose a smaller model\.$"):
        choose_plan("m", LLAMA_7B, None, "4bit", memory, None)


def test_a_model_of_which_only_its_size_is_known() -> None:
    """It is no single weight, to be held whole while it is quantised."""
    host = Memory("cpu", "this machine", 26 * GB, 24 * GB, 2)
    about = sizes_about(13 * GB, 819_200, 2048)
    assert longest_fitting(about, None, "none", host, host.free) is None
    plan = longest_fitting(about, None, "4bit", host, host.free)
    assert plan is not None
    assert plan.peak < 14 * GB


MISTRAL = {"model_type": "mistral", "max_position_embeddings": 100}


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({}, None),
        ({"max_position_embeddings": 100}, 100),
        ({**MISTRAL, "sliding_window": 50}, 50),
        ({**MISTRAL, "sliding_window": None}, 100),
        ({**MISTRAL, "sliding_window": 50, "use_sliding_window": False}, 100),
        ({**MISTRAL, "model_type": "gemma2", "sliding_window": 50}, 100),
    ],
)
def test_a_model_s_own_context(config: dict[str, object], length: int | None) -> None:
    assert own_context(config.get) == length


def test_weights_that_come_quantised_are_counted_as_stored() -> None:
    config = SHAPES["llama-2-7b"].config(4096).to_dict()
    sizes = sizes_of(config, {"model.layers.0.mlp.up_proj.weight": (100, 1)}, stored=123)
    assert {sizes.weights_bytes(kind) for kind in ("4bit", "8bit", "none")} == {123}


def test_planning_imports_no_torch() -> None:
    program = "import sys, medusa_chat.checkpoints.catalogue; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"
