"""From a folder to a base model: devices, dtypes, damage and too little memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from medusa_chat.decoding.draft import Candidates, draft_static
from medusa_chat.errors import CheckpointError, OutOfMemory
from medusa_chat.model.loading import load_base_model, pick_device, pick_dtype
from tests.model.test_verification import TREE

CPU = torch.device("cpu")
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}


def saved(folder: Path, config_name: str, **settings: Any) -> Path:
    config = getattr(transformers, config_name)(**settings)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path, "LlamaConfig", **SMALL)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_base_model(folder, "none", CPU, torch.float32)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="can't be loaded"):
        load_base_model(folder, "none", CPU, torch.float32)


def test_memory_that_runs_out_after_all_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path, "LlamaConfig", **SMALL)

    def no_memory(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", no_memory)
    with pytest.raises(OutOfMemory, match=r"Memory ran out while the model in .* was loaded\. Free some"):
        load_base_model(folder, "none", CPU, torch.float32)


def test_devices_and_dtypes() -> None:
    assert pick_device("cpu") == CPU
    assert pick_dtype("float16", CPU) == torch.float16
    assert pick_dtype("auto", CPU) in (torch.float32, torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("quantization", ["none", "4bit", "8bit"])
def test_tree_is_near_its_paths_on_a_gpu(default_model: Path, quantization: Any) -> None:
    """Near, not equal: cuBLAS and SDPA add up in an order that follows the number of rows."""
    device = torch.device("cuda")
    base = load_base_model(default_model, quantization, device, pick_dtype("auto", device))
    guesses = torch.randint(3, 1000, (4, 10), device=device)
    draft = draft_static(Candidates(TREE.paths, device), torch.tensor(5, device=device), guesses)
    cache = base.new_cache()
    base.prefill(torch.randint(3, 1000, (1, 50), device=device), cache)
    together = base.forward(draft.ids[None], cache, 50 + draft.depths, draft.visible)[0]
    alone = base.forward(draft.ids[None, [0, 1]], cache)[0]
    torch.testing.assert_close(together[:2], alone, rtol=0.1, atol=0.1 * float(alone.abs().max()))
