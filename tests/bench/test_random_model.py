"""A model of random weights has the structure of one that was loaded, and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from medusa_chat.bench.random_model import random_heads, random_model
from medusa_chat.bench.shapes import SHAPES, Shape
from medusa_chat.model.base import BaseModel
from medusa_chat.model.loading import load_base_model
from medusa_chat.records import Quantization
from tests.bench.shapes import GROUPED, TIED_WITH_BIAS

CPU = torch.device("cpu")


def structure(base: BaseModel) -> dict[str, Any]:
    """Everything but the values: modules, how each tensor is held, how quantised ones are decoded."""
    held: dict[str, Any] = {name: type(module) for name, module in base.causal_lm.named_modules()}
    for name, tensor in [*base.causal_lm.named_parameters(), *base.causal_lm.named_buffers()]:
        held[name] = (type(tensor), tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad)
        state = getattr(tensor, "quant_state", None)
        if state is not None:
            scales = (state.absmax.shape, state.absmax.dtype)
            held[f"{name} decoded"] = (state.quant_type, state.blocksize, state.shape, state.dtype, scales)
        if getattr(tensor, "SCB", None) is not None:
            held[f"{name} scaled"] = (tensor.SCB.shape, tensor.SCB.dtype, tensor.CB is not None)
    for name, module in base.causal_lm.named_modules():
        if hasattr(module, "compute_dtype"):
            held[f"{name} computes in"] = module.compute_dtype
        if hasattr(module, "state"):
            held[f"{name} threshold"] = (module.state.threshold, module.state.has_fp16_weights)
    return held


@pytest.mark.parametrize("quantization", ["none", "4bit", "8bit"])
@pytest.mark.parametrize("shape", [GROUPED, TIED_WITH_BIAS], ids=lambda shape: shape.name)
def test_a_random_model_is_built_like_a_loaded_one(
    shape: Shape, quantization: Quantization, tmp_path: Path
) -> None:
    random_model(shape, "none", CPU, torch.bfloat16, 256).causal_lm.save_pretrained(tmp_path)
    loaded = load_base_model(tmp_path, quantization, CPU, torch.bfloat16)
    built = random_model(shape, quantization, CPU, torch.bfloat16, 256)
    assert structure(built) == structure(loaded)
    assert (built.num_bytes, built.context_length) == (loaded.num_bytes, 256)
    assert built.config._attn_implementation == loaded.config._attn_implementation
    if quantization != "none":
        kind = {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[quantization]
        down = structure(built)["model.layers.0.mlp.down_proj"]
        assert down.__name__ == kind


@pytest.mark.parametrize("quantization", ["none", "4bit", "8bit"])
@torch.inference_mode()
def test_it_runs_with_its_heads(quantization: Quantization) -> None:
    base = random_model(TIED_WITH_BIAS, quantization, CPU, torch.bfloat16, 256)
    heads = random_heads(base, 3)
    hidden = base.prefill(torch.arange(20)[None], base.new_cache())
    assert base.logits(hidden).isfinite().all()
    drafts = heads.logits(hidden, base)
    assert drafts.shape == (3, TIED_WITH_BIAS.vocab_size)
    assert drafts.isfinite().all()
    assert random_heads(base, 3, "path").sees_path


def test_only_the_embedding_is_shared_where_it_is_tied() -> None:
    for shape in (GROUPED, TIED_WITH_BIAS):
        lm = random_model(shape, "4bit", CPU, torch.bfloat16, 256).causal_lm
        assert (lm.lm_head.weight is lm.model.embed_tokens.weight) == shape.tied


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama-2-7b", 6.74),
        ("llama-2-13b", 13.02),
        ("llama-3-8b", 8.03),
        ("qwen2.5-7b", 7.62),
        ("mistral-7b", 7.24),
        ("tinyllama", 1.10),
        ("smollm2-135m", 0.1345),
    ],
)
def test_shapes_have_the_published_number_of_weights(name: str, billions: float) -> None:
    from transformers import AutoModelForCausalLM

    shape = SHAPES[name]
    with torch.device("meta"):
        causal_lm = cast(Any, AutoModelForCausalLM.from_config(shape.config(4096), dtype=torch.bfloat16))
    assert sum(p.numel() for p in causal_lm.parameters()) == pytest.approx(billions * 1e9, rel=5e-3)
    layer = causal_lm.model.layers[0]
    qkv = (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
    assert (qkv[0].bias is not None) == shape.qkv_bias
    assert shape.linears == {
        "q/k/v": (sum(m.out_features for m in qkv), shape.hidden_size),
        "o": tuple(layer.self_attn.o_proj.weight.shape),
        "gate/up": (layer.mlp.gate_proj.out_features * 2, shape.hidden_size),
        "down": tuple(layer.mlp.down_proj.weight.shape),
    }
