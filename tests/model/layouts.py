"""Heads as other programs publish them: files, names and config.json of each layout, from known tensors.

The letters are those of medusa_chat/model/head_layouts.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class KnownHeads:
    """weight (K, L, D, D), bias (K, L, D), lm_heads (K, V, D)."""

    weight: torch.Tensor
    bias: torch.Tensor
    lm_heads: torch.Tensor

    @classmethod
    def random(
        cls, num_heads: int = 3, num_layers: int = 1, hidden_size: int = 32, vocab_size: int = 64
    ) -> KnownHeads:
        generator = torch.Generator().manual_seed(3)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator).half().float()  # exact in 16 bits too

        block = (num_heads, num_layers, hidden_size)
        return cls(
            normal(*block, hidden_size) * 0.25,
            normal(*block) * 0.25,
            normal(num_heads, vocab_size, hidden_size),
        )

    def logits(self, hidden: torch.Tensor, lm_heads: torch.Tensor | None = None) -> torch.Tensor:
        """hidden (D,) -> (K, V), by the formula; lm_heads (K, V, D): others than its own."""
        rows = []
        ends = self.lm_heads if lm_heads is None else lm_heads
        for weights, biases, end in zip(self.weight, self.bias, ends, strict=True):
            x = hidden
            for weight, bias in zip(weights, biases, strict=True):
                x = x + F.silu(weight @ x + bias)
            rows.append(end @ x)
        return torch.stack(rows)

    def reference_names(self, *, lm_heads: bool, prefix: str = "") -> dict[str, torch.Tensor]:
        tensors = {}
        for head in range(len(self.weight)):
            for layer in range(self.weight.shape[1]):
                tensors[f"{prefix}{head}.{layer}.linear.weight"] = self.weight[head, layer]
                tensors[f"{prefix}{head}.{layer}.linear.bias"] = self.bias[head, layer]
            if lm_heads:
                tensors[f"{prefix}{head}.{self.weight.shape[1]}.weight"] = self.lm_heads[head]
        return tensors

    def vllm_names(self, *, bias: bool) -> dict[str, torch.Tensor]:
        """Of the blocks."""
        tensors = {}
        for head in range(len(self.weight)):
            for layer in range(self.weight.shape[1]):
                tensors[f"blocks.{head}.layers.{layer}.weight"] = self.weight[head, layer]
                if bias:
                    tensors[f"blocks.{head}.layers.{layer}.bias"] = self.bias[head, layer]
        return tensors


def write_a(folder: Path, heads: KnownHeads, **changes: torch.Tensor | None) -> Path:
    """v0.1. Its published config.json says two heads, whatever the file holds."""
    _write_config(folder, medusa_num_heads=2, medusa_num_layers=heads.weight.shape[1])
    torch.save(_changed(heads.reference_names(lm_heads=True), changes), folder / "medusa_lm_head.pt")
    return folder


def write_b(
    folder: Path, base: Tensors, heads: KnownHeads, suffix: str, **changes: torch.Tensor | None
) -> Path:
    """v1.0: beside the base's config.json and tokenizer, two shards in float16, heads in the last."""
    ours = heads.reference_names(lm_heads=True, prefix="medusa_head.")
    whole = {name: tensor.half() for name, tensor in _changed({**base, **ours}, changes).items()}
    for file in folder.glob("*.safetensors"):
        file.unlink()
    stem = "pytorch_model" if suffix == "bin" else "model"
    names, half = list(whole), len(base) // 2
    shard_of = {}
    for number, part in enumerate((names[:half], names[half:]), start=1):
        file = folder / f"{stem}-{number:05}-of-00002.{suffix}"
        write_tensors(file, {name: whole[name] for name in part})
        shard_of |= dict.fromkeys(part, file.name)
    index = {"metadata": {"total_size": 0}, "weight_map": shard_of}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return folder


def write_c(folder: Path, heads: KnownHeads, **changes: torch.Tensor | None) -> Path:
    """The training script's since 2024: no LM heads."""
    config = {"medusa_num_heads": len(heads.weight), "medusa_num_layers": heads.weight.shape[1]}
    _write_config(folder, version="2", base_model_name_or_path="some/base", **config)
    tensors = _changed(heads.reference_names(lm_heads=False), changes)
    write_tensors(folder / "medusa_lm_head.safetensors", tensors)
    return folder


def write_d(
    folder: Path, heads: KnownHeads, *, bias: bool, lm_heads: Tensors, truncated: int, prefix: str = ""
) -> Path:
    """vLLM's. lm_heads: by their names there, perhaps with a token_map."""
    _write_config(
        folder,
        architectures=["MedusaModel"],
        model_type="medusa",
        hidden_size=heads.weight.shape[-1],
        num_heads=len(heads.weight),
        num_hidden_layers=heads.weight.shape[1],
        vocab_size=heads.lm_heads.shape[1],
        truncated_vocab_size=truncated,
        medusa_fc_bias=bias,
        original_lm_head="lm_head.weight" in lm_heads,
    )
    tensors = {**heads.vllm_names(bias=bias), **lm_heads}
    write_tensors(folder / "model.safetensors", {prefix + name: tensors[name] for name in tensors})
    return folder


def write_e(folder: Path, heads: KnownHeads, *, lm_heads: bool) -> Path:
    """TGI's: A's config.json, tensors as in A or in C."""
    _write_config(folder, medusa_num_heads=len(heads.weight), medusa_num_layers=heads.weight.shape[1])
    write_tensors(folder / "medusa_lm_head.safetensors", heads.reference_names(lm_heads=lm_heads))
    return folder


def write_tensors(file: Path, tensors: Tensors) -> None:
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    if file.suffix == ".safetensors":
        safetensors.torch.save_file(copies, file)
    else:
        torch.save(copies, file)


def _changed(tensors: Tensors, changes: Mapping[str, torch.Tensor | None]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}


def _write_config(folder: Path, **config: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
