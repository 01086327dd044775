"""The decoder of our own kernels on a GPU: as transformers, and the same bits in any company."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

pytest.importorskip("triton")

from medusa_chat.decoder_memory import SPARE_ROWS
from medusa_chat.decoding.generate import generate, new_context
from medusa_chat.decoding.planning import fixed_plan, plain_plan
from medusa_chat.decoding.proposing import dynamic_candidates
from medusa_chat.model.attention import GROUPED_ATTENTION
from medusa_chat.model.base import BaseModel
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.fastest import fastest
from medusa_chat.model.fused import FusedModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.loading import load_base_model
from medusa_chat.records import KVPrecision, LMHeadPrecision, Quantization, SamplingOptions
from tests.tiny import random_path_heads

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")
SIZES = {
    "vocab_size": 3000,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
}


def saved(folder: Any, config: Any) -> Any:
    """A checkpoint whose weights are large enough for peaked predictions."""
    torch.manual_seed(1)
    causal_lm = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for name, parameter in causal_lm.named_parameters():
            if "norm" not in name:
                parameter.normal_(0.0, 0.06)
    causal_lm.save_pretrained(folder)
    return folder


def opened(folder: Any, quantization: Quantization) -> BaseModel:
    base = load_base_model(folder, quantization, CUDA, torch.bfloat16)
    assert base.config._attn_implementation == GROUPED_ATTENTION
    return base


in_both_precisions = pytest.mark.parametrize("kv_cache", ["full", "8bit"])


@pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("quantization", ["none", "4bit", "8bit"])
@in_both_precisions
@torch.inference_mode()
def test_logits_are_those_of_transformers(
    tmp_path: Any, config: Any, quantization: Quantization, kv_cache: KVPrecision
) -> None:
    folder = saved(tmp_path, config(**SIZES))
    ids = torch.randint(3, 3000, (1, 300), device=CUDA)
    base = opened(folder, quantization)
    theirs = base.logits(base.forward(ids, base.new_cache(kv_cache=kv_cache))[0]).float()
    fused, _ = fastest(base, None)
    ours = fused.logits(fused.forward(ids, fused.new_cache(kv_cache=kv_cache))[0])
    # Both round to bfloat16 at different places, and LLM.int8 rounds its inputs to 8 bits besides.
    assert float((ours - theirs).norm() / theirs.norm()) < (0.1 if quantization == "8bit" else 0.05)


@pytest.mark.parametrize("quantization", ["none", "4bit", "8bit"])
@in_both_precisions
@torch.inference_mode()
def test_a_row_has_the_same_bits_alone_and_in_a_prompt(
    tmp_path: Any, quantization: Quantization, kv_cache: KVPrecision
) -> None:
    fused, _ = fastest(opened(saved(tmp_path, LlamaConfig(**SIZES)), quantization), None)
    ids = torch.randint(3, 3000, (1, 600), device=CUDA)
    together = fused.forward(ids, fused.new_cache(kv_cache=kv_cache))[0]
    cache = fused.new_cache(kv_cache=kv_cache)
    for start in (*range(40), *range(40, 600, 7)):
        count = 1 if start < 40 else min(7, 600 - start)
        alone = fused.forward(ids[:, start : start + count], cache)[0]
        cache.keep(range(count))
        assert torch.equal(alone, together[start : start + count]), start


@pytest.mark.parametrize("quantization", ["none", "4bit", "8bit"])
@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(temperature=0.0, max_tokens=400),
        SamplingOptions(temperature=0.8, top_p=0.9, top_k=50, min_p=0.01, max_tokens=200),
    ],
)
@pytest.mark.parametrize(("kind", "kv_cache"), [("block", "full"), ("path", "full"), ("path", "8bit")])
def test_drafts_change_no_token(
    tmp_path: Any, quantization: Quantization, options: SamplingOptions, kind: str, kv_cache: KVPrecision
) -> None:
    """Plain, in graphs with trees of several sizes, and without graphs: one and the same reply."""
    base = opened(saved(tmp_path, LlamaConfig(**SIZES)), quantization)
    check_drafts(base, options, kind, kv_cache, "full")


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("kind", ["block", "path"])
def test_beside_an_lm_head_in_4_bits_too(tmp_path: Any, kind: str, is_tied: bool) -> None:
    base = opened(saved(tmp_path, LlamaConfig(**SIZES, tie_word_embeddings=is_tied)), "4bit")
    check_drafts(base, SamplingOptions(temperature=0.0, max_tokens=400), kind, "full", "4bit")


def check_drafts(
    base: BaseModel, options: SamplingOptions, kind: str, kv_cache: KVPrecision, lm_head: LMHeadPrecision
) -> None:
    size = base.hidden_size
    heads: MedusaHeads = random_path_heads(base, 3, torch.arange(0, 3000, 2, device=CUDA))
    if kind == "block":
        own = torch.randn(3, 3000, size) * 0.06
        heads = BlockHeads(torch.randn(1, 3, size, size) * 0.01, torch.zeros(1, 3, 1, size), own)
    fused, heads = fastest(base, heads.to(CUDA, torch.bfloat16).requires_grad_(False), lm_head)
    candidates = dynamic_candidates(heads, CUDA)
    prompt = [(i * 7919) % 3000 for i in range(700)]

    def reply(num_nodes: int, in_graphs: bool) -> list[int]:
        context = new_context(fused, heads, kv_cache)
        if not in_graphs:
            context.graphs = None
        plan = plain_plan(CUDA) if num_nodes == 1 else fixed_plan(candidates, num_nodes)
        generator = torch.Generator().manual_seed(5)
        count = options.max_tokens if in_graphs else options.max_tokens // 8
        steps = generate(fused, heads, context, prompt, lambda: options, lambda _: plan, generator=generator)
        return [token for step in islice(steps, count) for token in step.ids]

    plain = reply(1, in_graphs=True)
    assert len(plain) == options.max_tokens
    for num_nodes in (4, 16, 64):
        assert reply(num_nodes, in_graphs=True) == plain, num_nodes
    eager = reply(16, in_graphs=False)
    if options.temperature == 0.0:  # torch and our kernel round the sums of probabilities differently
        assert eager == plain[: len(eager)]


@torch.inference_mode()
def test_a_cache_in_8_bits_takes_half_and_says_nearly_the_same(tmp_path: Any) -> None:
    fused, _ = fastest(opened(saved(tmp_path, LlamaConfig(**SIZES)), "none"), None)
    ids = torch.randint(3, 3000, (1, 600), device=CUDA)
    full, small = fused.new_cache(), fused.new_cache(kv_cache="8bit")
    expected, found = (fused.logits(fused.forward(ids, cache)[0]) for cache in (full, small))
    assert small.num_bytes == full.num_bytes * (64 + 4) // 128
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.05


@pytest.mark.parametrize("is_tied", [True, False])
@torch.inference_mode()
def test_an_lm_head_in_4_bits_takes_less_and_says_nearly_the_same(tmp_path: Any, is_tied: bool) -> None:
    folder = saved(tmp_path, LlamaConfig(**SIZES, tie_word_embeddings=is_tied))
    ids = torch.randint(3, 3000, (1, 60), device=CUDA)
    full, small = (fastest(opened(folder, "4bit"), None, precision)[0] for precision in ("full", "4bit"))
    expected, found = (base.logits(base.forward(ids, base.new_cache())[0]) for base in (full, small))
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.15
    assert isinstance(full, FusedModel)
    product = full.quantised_lm_head()
    assert torch.equal(product.logits(full.forward(ids, full.new_cache())[0]), found)
    whole = 0 if is_tied else 2 * 3000 * 576
    assert small.num_bytes - full.num_bytes == product.weight.num_bytes - whole
    some = torch.tensor([5, 2999, 17], device=CUDA)
    hidden = small.forward(ids[:, :4], small.new_cache())[0]
    torch.testing.assert_close(small.draft_head(some)(hidden), small.logits(hidden)[:, some])


@torch.inference_mode()
def test_drafts_without_heads_tell_of_the_sizes_they_can_have(tmp_path: Any) -> None:
    """A chain has a root and 15 nodes; a session knows no larger draft of it."""
    fused, _ = fastest(opened(saved(tmp_path, LlamaConfig(**SIZES)), "4bit"), None)
    candidates = dynamic_candidates(None, CUDA)
    options = SamplingOptions(temperature=0.0, max_tokens=60)
    prompt = [5, 6, 7, 8] * 20

    def reply(plan: Any) -> list[Any]:
        context = new_context(fused, None)
        return list(generate(fused, None, context, prompt, lambda: options, lambda _: plan))

    drafted = reply(fixed_plan(candidates, 16))
    assert {size for step in drafted if step.outlook for size in step.outlook} == {1, 4, 8, 16}
    plain = [token for step in reply(plain_plan(CUDA)) for token in step.ids]
    assert [token for step in drafted for token in step.ids] == plain


@pytest.mark.parametrize("kind", ["block", "path"])
@torch.inference_mode()
def test_up_to_the_end_of_the_context_no_more_rows_are_taken_than_planned(tmp_path: Any, kind: str) -> None:
    """Steps are launched ahead of what the host knows, and trees are of the largest size."""
    base = opened(saved(tmp_path, LlamaConfig(**SIZES)), "none")
    base.context_length = 1500
    heads: MedusaHeads = random_path_heads(base, 3, torch.arange(0, 3000, 2, device=CUDA))
    if kind == "block":
        heads = BlockHeads(torch.zeros(1, 3, 576, 576), torch.zeros(1, 3, 1, 576))
    fused, heads = fastest(base, heads.to(CUDA, torch.bfloat16).requires_grad_(False))
    candidates = dynamic_candidates(heads, CUDA)
    options = SamplingOptions(temperature=0.0, max_tokens=1000)
    prompt = [5, 6, 7, 8] * 340

    def reply(plan: Any) -> list[int]:
        context = new_context(fused, heads)
        steps = list(generate(fused, heads, context, prompt, lambda: options, lambda _: plan))
        assert steps[-1].finish_reason == "context"
        assert context.cache.capacity == 1500 + SPARE_ROWS
        return [token for step in steps for token in step.ids]

    assert reply(fixed_plan(candidates, 64)) == reply(plain_plan(CUDA))


@torch.inference_mode()
def test_memory_is_given_back_behind_the_step_under_way(tmp_path: Any) -> None:
    """As the cache grows, graphs go whose last replay may not be done: here it never is."""
    base, heads = fastest(opened(saved(tmp_path, LlamaConfig(**SIZES)), "none"), None)
    options = SamplingOptions(temperature=0.0, max_tokens=60)
    prompt = [(i * 7919) % 3000 for i in range(930)]

    def reply(delay: int) -> list[int]:
        ids = []
        plan = plain_plan(CUDA)
        for step in generate(base, heads, new_context(base, heads), prompt, lambda: options, lambda _: plan):
            ids += step.ids
            torch.cuda._sleep(delay)  # cycles
        return ids

    assert reply(10_000_000) == reply(0)
