"""Adapters: what they change and what not, both ways of running them, every way a file can be wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch

from medusa_chat.engine.opening import OpenModel, open_heads
from medusa_chat.engine.session import Session
from medusa_chat.errors import CheckpointError, HeadsMismatch, UnsupportedModel
from medusa_chat.model.adapter import ADAPTER_FOLDER, Adapter, merge_adapter
from medusa_chat.model.base import BaseModel
from medusa_chat.model.fastest import fastest
from medusa_chat.model.loading import load_base_model
from medusa_chat.records import Chunk, Message, Quantization, SamplingOptions
from tests.model.test_loading import CPU, SMALL, saved
from tests.tiny import random_heads, tiny_llama
from tests.training.chatty import chatty_model

LARGER = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}  # rows that 4-bit kernels take
IDS = torch.arange(3, 27).reshape(2, 12)


def put_on(base: BaseModel, dropout: float = 0.0) -> Adapter:
    """An adapter that has learnt something."""
    torch.manual_seed(3)
    adapter = Adapter(base, rank=4, alpha=2, dropout=dropout)
    with torch.no_grad():
        for name, weight in adapter.weights.items():
            if "lora_B" in name:
                weight.normal_(0.0, 0.1)
    return adapter


def save_adapter(base: BaseModel, folder: Path) -> str:
    """Of a base that stays as it is."""
    adapter = put_on(base)
    digest = adapter.save(folder, "test/base")
    adapter.take_off()
    return digest


def logits(base: BaseModel) -> torch.Tensor:
    with torch.no_grad():
        return base.logits(base.hidden_states(IDS))


@pytest.mark.parametrize("config_name", ["LlamaConfig", "Qwen3Config", "Gemma2Config", "GPT2Config"])
def test_hidden_states_are_those_of_a_forward_over_a_cache(tmp_path: Path, config_name: str) -> None:
    base = load_base_model(saved(tmp_path, config_name, **SMALL), "none", CPU, torch.float32)
    torch.testing.assert_close(base.hidden_states(IDS), base.forward(IDS, base.new_cache()))


def test_it_is_on_every_linear_layer_but_the_lm_head_and_at_first_changes_nothing() -> None:
    base = tiny_llama()
    before = logits(base)
    adapter = Adapter(base, rank=4, alpha=2, dropout=0.5)
    layers = {name.partition(".lora_")[0].rpartition(".")[2] for name in adapter.weights}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(adapter.weights) == 2 * 2 * 7
    assert all(weight.requires_grad for weight in adapter.weights.values())
    torch.testing.assert_close(logits(base), before)


def test_switched_off_or_taken_off_the_base_is_itself() -> None:
    base = tiny_llama()
    before = logits(base)
    adapter = put_on(base)
    assert not torch.allclose(logits(base), before, atol=0.1)
    with adapter.switched_off():
        assert torch.equal(logits(base), before)
    assert not torch.allclose(logits(base), before, atol=0.1)
    assert all(weight.requires_grad for weight in adapter.weights.values())
    adapter.take_off()
    assert torch.equal(logits(base), before)


def test_its_dropout_is_at_work_while_the_base_has_none() -> None:
    base = tiny_llama()
    adapter = put_on(base, dropout=0.5)
    assert not torch.allclose(logits(base), logits(base))
    with adapter.switched_off():
        assert torch.equal(logits(base), logits(base))


@pytest.mark.parametrize("config_name", ["LlamaConfig", "Qwen2Config", "Gemma2Config", "GPT2Config"])
def test_merged_it_is_what_it_was_beside_the_weights(tmp_path: Path, config_name: str) -> None:
    base = load_base_model(saved(tmp_path, config_name, **SMALL), "none", CPU, torch.float32)
    plain = logits(base)
    adapter = put_on(base)
    beside = logits(base)
    digest = adapter.save(tmp_path / "adapter", "test/base")
    adapter.take_off()
    assert base.adapter is None
    merge_adapter(base, tmp_path / "adapter", digest)
    assert base.adapter == digest
    torch.testing.assert_close(logits(base), beside, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(beside, plain, atol=0.01)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
@pytest.mark.parametrize("has_run", [False, True])
def test_quantised_weights_are_quantised_anew_with_it(
    tmp_path: Path, quantization: Quantization, has_run: bool
) -> None:
    folder = saved(tmp_path / "base", "LlamaConfig", **{**SMALL, **LARGER})
    whole = load_base_model(folder, "none", CPU, torch.float32)
    digest = save_adapter(whole, tmp_path / "adapter")
    merge_adapter(whole, tmp_path / "adapter", digest)
    whole.causal_lm.save_pretrained(tmp_path / "merged")
    expected = load_base_model(tmp_path / "merged", quantization, CPU, torch.float32)

    base = load_base_model(folder, quantization, CPU, torch.float32)
    if has_run:  # which moves scales and packs weights
        logits(base)
    merge_adapter(base, tmp_path / "adapter", digest)
    assert torch.equal(logits(base), logits(expected))

    kept = load_base_model(folder, quantization, CPU, torch.float32)
    assert not torch.equal(logits(kept), logits(expected))  # the copy knows nothing of the adapter
    merge_adapter(kept, tmp_path / "adapter", digest)
    assert torch.equal(logits(kept), logits(expected))


def test_gradients_reach_it_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path, "LlamaConfig", **{**SMALL, **LARGER})
    for quantization in ("none", "8bit"):
        base = load_base_model(folder, quantization, CPU, torch.float32)
        with torch.inference_mode():  # as dialogues are written
            logits(base)
        adapter = put_on(base)
        base.hidden_states(IDS).square().sum().backward()
        assert all(weight.grad.abs().sum() > 0 for weight in adapter.weights.values())
        others = [p for n, p in base.causal_lm.named_parameters() if ".lora_" not in n]
        assert all(parameter.grad is None for parameter in others)
    with pytest.raises(UnsupportedModel, match="can't be trained on 4-bit weights on a CPU"):
        put_on(load_base_model(folder, "4bit", CPU, torch.float32))


def test_peft_reads_it(tmp_path: Path) -> None:
    base = tiny_llama()
    adapter = put_on(base)
    beside = logits(base)
    adapter.save(tmp_path, "test/base")
    model = peft.PeftModel.from_pretrained(tiny_llama().causal_lm, str(tmp_path))
    torch.testing.assert_close(logits(BaseModel(model.merge_and_unload())), beside, rtol=1e-4, atol=1e-4)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 2, "test/base")


def test_wrong_files_are_named(tmp_path: Path) -> None:
    base = tiny_llama()
    digest = save_adapter(base, tmp_path)
    config, weights = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    with pytest.raises(CheckpointError, match="is damaged or not the one these heads were trained with"):
        merge_adapter(base, tmp_path, "0" * 16)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(CheckpointError, match="is damaged or not the one these heads were trained with"):
        merge_adapter(base, tmp_path, digest)
    weights.unlink()
    with pytest.raises(
        CheckpointError, match=r"trained together with an adapter, but .*safetensors is missing"
    ):
        merge_adapter(base, tmp_path, digest)
    weights.write_bytes(whole)
    config.unlink()
    with pytest.raises(CheckpointError, match=r"but .*adapter_config\.json is missing"):
        merge_adapter(base, tmp_path, digest)


def test_an_adapter_of_another_model_or_kind_is_refused(tmp_path: Path) -> None:
    digest = save_adapter(tiny_llama(hidden_size=48), tmp_path)
    base = tiny_llama()
    before = logits(base)
    with pytest.raises(HeadsMismatch, match=r"doesn't fit this model at model\.layers\.0\."):
        merge_adapter(base, tmp_path, digest)
    model = peft.get_peft_model(
        tiny_llama().causal_lm, peft.LoraConfig(target_modules=["q_proj"], use_dora=True)
    )
    other = tmp_path / "dora"
    model.save_pretrained(str(other))
    from medusa_chat.model.adapter import _digest

    with pytest.raises(UnsupportedModel, match="of a kind that can't be merged here"):
        merge_adapter(base, other, _digest(other))
    assert torch.equal(logits(base), before)


def chatty_with_adapted_heads(folder: Path) -> OpenModel:
    """A model, and in `folder` heads that name an adapter beside them."""
    model = chatty_model()
    heads = random_heads(model.base, 2)
    digest = save_adapter(model.base, folder / ADAPTER_FOLDER)
    heads.config = {"base_fingerprint": model.base.fingerprint, "adapter": digest}
    heads.save(folder)
    return model


def greedy_reply(model: OpenModel, session: Session, *, drafting: bool) -> list[int]:
    session.options = SamplingOptions(temperature=0.0, max_tokens=30, drafting=drafting, tree_size=8)
    items = session.reply([Message("user", "What is it")])
    return [token for item in items if isinstance(item, Chunk) for token in item.ids]


def test_the_engine_answers_with_the_adapted_model_and_says_so(tmp_path: Path) -> None:
    model = chatty_with_adapted_heads(tmp_path)
    unadapted = Session(model, None)
    assert unadapted.info.model == "chatty"
    reply = greedy_reply(model, unadapted, drafting=False)
    base, heads = fastest(model.base, open_heads(model, str(tmp_path)))
    session = Session(replace(model, base=base), heads)
    assert session.info.model == "chatty+adapter"
    adapted = greedy_reply(model, session, drafting=False)
    assert greedy_reply(model, session, drafting=True) == adapted
    assert adapted != reply


def test_it_is_merged_once_and_other_heads_are_refused_then(tmp_path: Path) -> None:
    model = chatty_with_adapted_heads(tmp_path)
    open_heads(model, str(tmp_path))
    merged = logits(model.base)
    open_heads(model, str(tmp_path))
    assert torch.equal(logits(model.base), merged)
    random_heads(model.base, 2).save(tmp_path / "plain")
    with pytest.raises(HeadsMismatch, match="Another adapter is merged into the model in memory"):
        open_heads(model, str(tmp_path / "plain"))


def test_heads_are_not_used_without_their_adapter(tmp_path: Path) -> None:
    model = chatty_with_adapted_heads(tmp_path)
    (tmp_path / ADAPTER_FOLDER / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="trained together with an adapter, but"):
        open_heads(model, str(tmp_path))
