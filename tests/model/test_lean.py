"""The lean decoder says what transformers' says, and its rows' bits don't depend on their company."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from medusa_chat.decoding.tree import best_tree, published_paths
from medusa_chat.errors import UnsupportedModel
from medusa_chat.model.attention import GROUPED_ATTENTION
from medusa_chat.model.base import BaseModel
from medusa_chat.model.fastest import fastest
from medusa_chat.model.lean import LeanModel, lean
from medusa_chat.model.loading import load_base_model
from medusa_chat.records import KVPrecision
from tests.model.test_verification import logits_by_tree_and_by_path
from tests.tiny import tiny_llama

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "sliding_window": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "llama with biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama 3's rope": LlamaConfig(**SIZES, rope_parameters=LLAMA3_ROPE),
    "llama, tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, head_dim=16),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
}


def random_model(config: Any, dtype: torch.dtype = torch.float32) -> BaseModel:
    """Weights that float16 holds, norms that do something."""
    torch.manual_seed(7)
    causal_lm = AutoModelForCausalLM.from_config(config, attn_implementation=GROUPED_ATTENTION, dtype=dtype)
    with torch.no_grad():
        for name, parameter in causal_lm.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
            parameter.copy_(parameter.half())
    return BaseModel(causal_lm.requires_grad_(False))


def random_tree(num_nodes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Depths (N,) and visible (N, N)."""
    tree = best_tree(published_paths(4), num_nodes)
    visible = torch.eye(num_nodes, dtype=torch.bool)
    for node, parent in enumerate(tree.parents[1:], start=1):
        visible[node] |= visible[parent]
    return torch.tensor(tree.depths), visible


@torch.inference_mode()
def logits_of_a_prompt_and_a_tree(base: BaseModel, kv_cache: KVPrecision = "full") -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, base.vocab_size, (1, 170), generator=generator)
    cache = base.new_cache(kv_cache=kv_cache)
    prompt = base.prefill(ids[:, :150], cache)
    depths, visible = random_tree(20)
    tree = base.forward(ids[:, 150:], cache, 150 + depths, visible)[0]
    return base.logits(torch.cat([prompt, tree]))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_transformers(family: str) -> None:
    ours = lean(random_model(FAMILIES[family]))
    assert isinstance(ours, LeanModel)
    expected = logits_of_a_prompt_and_a_tree(random_model(FAMILIES[family]))
    torch.testing.assert_close(logits_of_a_prompt_and_a_tree(ours), expected, rtol=1e-4, atol=1e-4)


def test_logits_over_a_cache_in_8_bits_are_transformers() -> None:
    """But where a value lies so near the middle of two multiples that the last bit decides."""
    config = FAMILIES["qwen3"]
    ours, theirs = (
        logits_of_a_prompt_and_a_tree(base, "8bit")
        for base in (lean(random_model(config)), random_model(config))
    )
    full = logits_of_a_prompt_and_a_tree(random_model(config))
    assert (ours - theirs).abs().mean() < 0.1 * (full - theirs).abs().mean()
    assert 0 < (full - theirs).std() < 0.05 * full.std()


@pytest.mark.parametrize("family", ["llama", "llama, tied"])
def test_what_is_asked_of_a_base_model_stays(family: str) -> None:
    base = random_model(FAMILIES[family])
    fingerprint, num_bytes, head = base.fingerprint, base.num_bytes, base.lm_head_weight.clone()
    ours = lean(base)
    assert ours.fingerprint == fingerprint
    assert torch.equal(ours.lm_head_weight, head)
    other_heads = head.nbytes // 2 if "tied" in family else 0  # packed
    # float16 holds these weights in half their bytes; all but a few small tensors are held once.
    assert ours.num_bytes < num_bytes + other_heads
    assert not list(ours.causal_lm.get_decoder().layers)


def test_drafts_get_nearly_the_models_logits() -> None:
    ours = lean(random_model(FAMILIES["llama"]))
    hidden = torch.randn(4, ours.hidden_size, generator=torch.Generator().manual_seed(0))
    expected = ours.logits(hidden)
    assert (ours.draft_head(None)(hidden) - expected).std() < 0.03 * expected.std()
    some = torch.tensor([3, 1, 4, 15])
    assert (ours.draft_head(some)(hidden) - expected[:, some]).std() < 0.03 * expected.std()


def test_others_stay_as_they_are() -> None:
    stretched = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    for base in (
        tiny_llama(attention="eager"),
        random_model(LlamaConfig(**SIZES, rope_parameters=stretched)),
        random_model(LlamaConfig(**SIZES, hidden_act="gelu")),
    ):
        assert lean(base) is base


def test_an_lm_head_in_4_bits_is_refused_here() -> None:
    with pytest.raises(UnsupportedModel, match=r"load this one with --lm-head full\.$"):
        fastest(tiny_llama(), None, "4bit")


@dataclass(frozen=True)
class RealModel:
    """The default model made lean, and the logits (N, V) that transformers gave for `ids` before."""

    base: BaseModel
    ids: torch.Tensor
    expected: torch.Tensor
    tolerance: float


@pytest.fixture(
    scope="module",
    # 8 bits: bitsandbytes rounds to them what transformers has rounded to bfloat16 before.
    params=[
        ("none", "float32", 1e-4),
        ("none", "bfloat16", 0.08),
        ("4bit", "bfloat16", 0.08),
        ("8bit", "bfloat16", 0.3),
    ],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def real(request: pytest.FixtureRequest, default_model: Path) -> RealModel:
    quantization, dtype, tolerance = request.param
    base = load_base_model(default_model, quantization, torch.device("cpu"), getattr(torch, dtype))
    ids = torch.randint(3, 40_000, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        # A first forward lays 4-bit weights out in a way that can no longer be joined: a copy does it.
        spent = copy.deepcopy(base) if quantization == "4bit" else base
        logits = spent.logits(spent.forward(ids, spent.new_cache())[0]).float()
    return RealModel(lean(base), ids, logits, tolerance)


def test_logits_of_the_real_model_are_transformers(real: RealModel) -> None:
    assert isinstance(real.base, LeanModel)
    with torch.inference_mode():
        got = real.base.logits(real.base.forward(real.ids, real.base.new_cache())[0]).float()
    assert (got - real.expected).std() < real.tolerance * real.expected.std()


@pytest.mark.parametrize(("prompt_length", "kv_cache"), [(3, "full"), (126, "full"), (126, "8bit")])
def test_tree_equals_paths_to_the_bit_on_the_real_model(
    real: RealModel, prompt_length: int, kv_cache: KVPrecision
) -> None:
    """Behind a prompt of 126 the tree crosses a chunk of keys."""
    tree = best_tree(published_paths(4), 14)
    together, alone = logits_by_tree_and_by_path(real.base, prompt_length, tree, kv_cache)
    assert torch.equal(together, alone)
