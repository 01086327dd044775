"""What is quantised is kept: the next load has the same bits without quantising anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.integrations import bitsandbytes as integration

from medusa_chat.checkpoints import quantised
from medusa_chat.errors import OutOfMemory
from medusa_chat.model.base import BaseModel
from medusa_chat.model.lean import lean
from medusa_chat.model.loading import load_base_model
from medusa_chat.records import LoadProgress
from tests.model.test_loading import CPU, SMALL, saved

LLAMA = {**SMALL, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}  # rows that 4-bit kernels take
GPT2 = {"vocab_size": 64, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return saved(tmp_path / "llama", "LlamaConfig", **LLAMA)


def load(folder: Path, quantization: Any = "4bit", told: list[str] | None = None) -> BaseModel:
    def note(progress: LoadProgress) -> None:
        if told is not None:
            told.append(progress.message)

    return load_base_model(folder, quantization, CPU, torch.bfloat16, note)


def refuse_to_quantise(monkeypatch: pytest.MonkeyPatch) -> None:
    for operation in (integration.Bnb4bitQuantize, integration.Bnb8bitQuantize):
        monkeypatch.setattr(operation, "convert", lambda *_, **__: pytest.fail("quantised"))


def state(base: BaseModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in base.causal_lm.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


def reply(base: BaseModel) -> list[int]:
    """Greedy, one token a step."""
    cache, ids = base.new_cache(), [5, 9, 11]
    base.prefill(torch.tensor([ids]), cache)
    for _ in range(20):
        hidden = base.forward(torch.tensor([ids[-1:]]), cache)
        ids.append(int(base.logits(hidden[0, -1:]).argmax()))
    return ids


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
@pytest.mark.parametrize(
    ("config_name", "settings"),
    [("LlamaConfig", LLAMA), ("LlamaConfig", {**LLAMA, "tie_word_embeddings": True}), ("GPT2Config", GPT2)],
)
def test_the_second_load_has_the_same_bits_and_words(
    config_name: str,
    settings: dict[str, Any],
    quantization: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = saved(tmp_path / "base", config_name, **settings)
    told: list[str] = []
    first = load(folder, quantization, told)
    assert told == [f"Keeping the {quantization[0]}-bit weights for next time"]
    bits = state(first)
    refuse_to_quantise(monkeypatch)
    second = load(folder, quantization, told)
    assert len(told) == 1
    assert_same(bits, state(second))
    assert second.causal_lm.name_or_path == first.causal_lm.name_or_path == str(folder)
    assert second.causal_lm.generation_config.to_dict() == first.causal_lm.generation_config.to_dict()
    assert reply(lean(second)) == reply(lean(first))


def test_whole_weights_are_not_kept(llama: Path) -> None:
    load(llama, "none")
    assert not quantised.copies_dir().exists()


def test_a_generation_config_that_transformers_will_not_write_is_no_obstacle(llama: Path) -> None:
    (llama / "generation_config.json").write_text(
        '{"temperature": 0.5, "do_sample": false, "eos_token_id": 7}'
    )
    told: list[str] = []
    load(llama, told=told)
    assert len(quantised.read_copies()) == 1
    assert load(llama, told=told).causal_lm.generation_config.eos_token_id == 7
    assert len(told) == 1


def cut(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def empty_config(copy: Path) -> None:
    (copy / "config.json").write_text("{}")


@pytest.mark.parametrize("harm", [cut, empty_config])
def test_a_damaged_copy_is_made_anew_and_the_user_told(harm: Callable[[Path], None], llama: Path) -> None:
    bits = state(load(llama))
    (copy,) = quantised.read_copies()
    harm(copy.folder)
    told: list[str] = []
    assert_same(bits, state(load(llama, told=told)))
    assert [message.split(":")[0] for message in told] == [
        "Quantising anew, as the 4-bit weights kept are damaged",
        "Keeping the 4-bit weights for next time",
    ]
    again: list[str] = []
    load(llama, told=again)
    assert again == []


def test_memory_that_runs_out_is_no_damage(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(llama)

    def no_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", no_memory)
    with pytest.raises(OutOfMemory):
        load(llama)
    assert len(quantised.read_copies()) == 1


def test_what_can_not_be_kept_is_loaded_all_the_same(llama: Path, home: Path) -> None:
    home.mkdir()
    (home / "cache").write_text("a file where the folder should be")
    told: list[str] = []
    bits = state(load(llama, told=told))
    assert told[-1] == "The 4-bit weights are not kept for next time: Not a directory"
    assert_same(bits, state(load(llama)))
