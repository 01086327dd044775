"""Which files are fetched, by lists of names as they are published."""

from __future__ import annotations

import pytest

from medusa_chat.checkpoints.hub_files import Wanted, choose_files

TOKENIZER = ["special_tokens_map.json", "tokenizer.model", "tokenizer_config.json"]
BIN_SHARDS = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
BIN_INDEX = "pytorch_model.bin.index.json"
SAFE_SHARDS = ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"]
SAFE_INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        # Vicuna
        (
            [".gitattributes", "README.md", "config.json", *TOKENIZER, *BIN_SHARDS, BIN_INDEX],
            ["config.json", *TOKENIZER, BIN_INDEX, *BIN_SHARDS],
        ),
        # Mistral: two formats, and a third for its own program
        (
            ["config.json", *SAFE_SHARDS, SAFE_INDEX, *BIN_SHARDS, BIN_INDEX, "consolidated.safetensors"],
            ["config.json", SAFE_INDEX, *SAFE_SHARDS],
        ),
        # Gemma, Llama: other formats in folders of their own
        (
            ["config.json", "model.safetensors", "gemma-7b-it.gguf", "original/consolidated.00.pth"],
            ["config.json", "model.safetensors"],
        ),
        # trained by axolotl, with what is left of it
        (
            ["config.json", "adapter_config.json", "adapter_model.bin", "pytorch_model.bin", "modeling.py"],
            ["config.json", "pytorch_model.bin"],
        ),
        (["config.json", "vocab.json", "merges.txt", "chat_template.jinja", "model.gguf"], []),
        (["config.json", SAFE_INDEX], []),
        ([], []),
    ],
)
def test_a_model(names: list[str], chosen: list[str]) -> None:
    assert choose_files(names, "model") == chosen


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["medusa_lm_head.pt"], ["medusa_lm_head.pt"]),
        (["medusa_lm_head.pt", "medusa_lm_head.safetensors"], ["medusa_lm_head.safetensors"]),
        (["model.safetensors"], ["model.safetensors"]),  # vLLM's
        ([*BIN_SHARDS, BIN_INDEX], [BIN_INDEX, *BIN_SHARDS]),  # together with their base
        (["pytorch_lora_weights.bin"], []),
    ],
)
def test_heads(names: list[str], weights: list[str]) -> None:
    wanted: Wanted = "heads"
    chosen = choose_files([*names, "config.json", "tokenizer.json", "medusa.py", "README.md"], wanted)
    assert chosen == (["config.json", *weights] if weights else [])
