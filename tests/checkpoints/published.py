"""A tiny random model in the layouts in which models and heads are published."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HIDDEN_SIZE, VOCAB_SIZE, NUM_HEADS = 32, 64, 2
PROGRAM = {
    "modeling_tiny.py": b"raise SystemExit('run')",
    "README.md": b"# Tiny",
    "tf_model.h5": b"\0" * 9000,
}


@cache
def weights() -> dict[str, torch.Tensor]:
    """Of a Llama of two layers."""
    torch.manual_seed(3)
    return {name: t.contiguous().clone() for name, t in LlamaForCausalLM(_config()).state_dict().items()}


@cache
def heads() -> dict[str, torch.Tensor]:
    """Two heads with LM heads of their own, as Medusa v0.1 has them."""
    torch.manual_seed(4)
    tensors = {}
    for head in range(NUM_HEADS):
        tensors[f"{head}.0.linear.weight"] = torch.randn(HIDDEN_SIZE, HIDDEN_SIZE) * 0.1
        tensors[f"{head}.0.linear.bias"] = torch.randn(HIDDEN_SIZE) * 0.1
        tensors[f"{head}.1.weight"] = torch.randn(VOCAB_SIZE, HIDDEN_SIZE)
    return tensors


def as_safetensors(num_shards: int = 1) -> dict[str, bytes]:
    """A repository's files with its weights as safetensors."""
    return {**_small_files(), **_shards("model", ".safetensors", num_shards, weights())}


def as_one_large_file(num_bytes: int) -> dict[str, bytes]:
    """A repository's files with about that much in its one file of weights, which are no model's."""
    weight = torch.zeros(num_bytes // 2, dtype=torch.float16)
    return {**_small_files(), "model.safetensors": save({"weight": weight}, {"format": "pt"})}


def as_bin(num_shards: int = 1) -> dict[str, bytes]:
    """The same with its weights as pickles of PyTorch."""
    return {**_small_files(), **_shards("pytorch_model", ".bin", num_shards, weights())}


def heads_as_safetensors() -> dict[str, bytes]:
    """A repository of heads alone."""
    config = {"base_model_name_or_path": "tiny/model", "medusa_num_heads": NUM_HEADS, "medusa_num_layers": 1}
    return {
        "config.json": json.dumps(config).encode(),
        "medusa_lm_head.safetensors": save(heads(), {"format": "pt"}),
    }


def _config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        architectures=["LlamaForCausalLM"],
    )


@cache
def _small_files() -> dict[str, bytes]:
    words = ["<unk>", "<s>", "</s>", "USER:", "ASSISTANT:", "Hello", "."]
    vocabulary = {word: n for n, word in enumerate([*words, *(f"w{n}" for n in range(VOCAB_SIZE - 7))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with TemporaryDirectory() as folder:
        _config().save_pretrained(folder)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        ).save_pretrained(folder)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def _shards(stem: str, suffix: str, number: int, tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    if number == 1:
        return {f"{stem}{suffix}": _serialised(suffix, tensors)}
    files: dict[str, bytes] = {}
    weight_map: dict[str, str] = {}
    for n in range(number):
        name = f"{stem}-{n + 1:05}-of-{number:05}{suffix}"
        part = dict(list(tensors.items())[n::number])
        files[name] = _serialised(suffix, part)
        weight_map |= dict.fromkeys(part, name)
    index: dict[str, Any] = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    return {**files, f"{stem}{suffix}.index.json": json.dumps(index).encode()}


def _serialised(suffix: str, tensors: dict[str, torch.Tensor]) -> bytes:
    if suffix == ".safetensors":
        return save(tensors, {"format": "pt"})
    stream = io.BytesIO()
    torch.save(tensors, stream)
    return stream.getvalue()
