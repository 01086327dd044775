"""Medusa heads: K small networks on the last hidden state, the k-th guessing the token k + 1 places ahead.

head_k(h) = LMHead_k(ResBlock_L(… ResBlock_1(h))), ResBlock(x) = x + SiLU(W x + b)   (paper, §2.1.1)

Kept as stacked tensors so that all heads run as one batched product. Saved in the two layouts of the
reference code: keys {k}.{l}.linear.weight / .bias, and {k}.{L}.weight where heads have LM heads of their own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from medusa_chat.errors import CheckpointError, HeadsMismatch
from medusa_chat.files import write_whole, writing
from medusa_chat.model.base import BaseModel

WEIGHTS_FILE = "medusa_lm_head.safetensors"
CONFIG_FILE = "config.json"
_BLOCK_KEY = re.compile(r"(\d+)\.(\d+)\.linear\.(weight|bias)")


class MedusaHeads(nn.Module):
    """K heads of L residual blocks over hidden size D; lm_heads (K, V, D), or None to share the base's.

    config: what the checkpoint says of itself (base model, fingerprint, calibration).
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        lm_heads: torch.Tensor | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)  # (L, K, D, D)
        self.bias = nn.Parameter(bias)  # (L, K, 1, D)
        self.lm_heads = None if lm_heads is None else nn.Parameter(lm_heads)
        self.config = config or {}

    @classmethod
    def fresh(cls, num_heads: int, num_layers: int, hidden_size: int) -> MedusaHeads:
        """Untrained heads sharing the base's LM head: all-zero blocks, so each starts as the base itself."""
        return cls(
            torch.zeros(num_layers, num_heads, hidden_size, hidden_size),
            torch.zeros(num_layers, num_heads, 1, hidden_size),
        )

    @property
    def calibration(self) -> dict[tuple[int, ...], float]:
        """Path of guesses -> how often it was right on held-out replies; empty if the heads bring none."""
        stored = self.config.get("path_probability", {})
        return {tuple(map(int, path.split())): float(probability) for path, probability in stored.items()}

    @property
    def num_heads(self) -> int:
        return self.weight.shape[1]

    @property
    def num_layers(self) -> int:
        return self.weight.shape[0]

    @property
    def hidden_size(self) -> int:
        return self.weight.shape[2]

    @property
    def num_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.parameters())

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (n, D) -> each head's own (K, n, D), before the LM head."""
        x = hidden.expand(self.num_heads, -1, -1)  # (K, n, D)
        for weight, bias in zip(self.weight, self.bias, strict=True):
            x = x + F.silu(torch.baddbmm(bias, x, weight.transpose(1, 2)))
        return x

    def logits(self, hidden: torch.Tensor, base: BaseModel) -> torch.Tensor:
        """One row's hidden state (1, D) -> logits (K, V)."""
        x = self(hidden)  # (K, 1, D)
        if self.lm_heads is None:
            return base.draft_logits(x[:, 0])
        return torch.bmm(x, self.lm_heads.transpose(1, 2))[:, 0]

    def check_fits(self, base: BaseModel, base_name: str) -> None:
        """Raises HeadsMismatch, naming both sides, unless these heads were made for this base model."""
        if self.hidden_size != base.hidden_size:
            raise HeadsMismatch(
                f"These heads are for a hidden size of {self.hidden_size}, "
                f"but {base_name} has {base.hidden_size}; choose heads trained for it."
            )
        if self.lm_heads is not None and self.lm_heads.shape[1] != base.vocab_size:
            raise HeadsMismatch(
                f"These heads have a vocabulary of {self.lm_heads.shape[1]}, "
                f"but {base_name} has {base.vocab_size}; choose heads trained for it."
            )
        made_for = self.config.get("base_fingerprint")
        if made_for is not None and made_for != base.fingerprint:
            raise HeadsMismatch(
                f"These heads were trained for {self.config.get('base_model_name_or_path', 'another model')} "
                f"(fingerprint {made_for}), but {base_name} has fingerprint {base.fingerprint}; "
                "choose heads trained for it."
            )

    def save(self, folder: Path) -> None:
        """Writes weights and config.json into `folder`. Raises CheckpointError on a full disk and such."""
        tensors = {}
        for layer in range(self.num_layers):
            for head in range(self.num_heads):
                tensors[f"{head}.{layer}.linear.weight"] = self.weight[layer, head]
                tensors[f"{head}.{layer}.linear.bias"] = self.bias[layer, head, 0]
        for head in range(self.num_heads if self.lm_heads is not None else 0):
            assert self.lm_heads is not None
            tensors[f"{head}.{self.num_layers}.weight"] = self.lm_heads[head]
        config = {
            "version": "2" if self.lm_heads is None else "1",
            "medusa_num_heads": self.num_heads,
            "medusa_num_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            **self.config,
        }
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        on_cpu = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
        write_whole(folder / WEIGHTS_FILE, safetensors.torch.save(on_cpu))
        write_whole(folder / CONFIG_FILE, (json.dumps(config, indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> MedusaHeads:
        """Reads heads from a folder; counts and shapes come from the tensors, not from config.json.

        Raises CheckpointError naming the file and what is wrong with it.
        """
        file = folder / WEIGHTS_FILE
        if not file.exists():
            raise CheckpointError(f"There are no Medusa heads in {folder}: it has no {WEIGHTS_FILE}.")
        try:
            tensors = safetensors.torch.load_file(file)
        except (safetensors.SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged ({error}); fetch or train the heads again.") from None
        return cls(*_stack(tensors, file), config=_read_config(folder / CONFIG_FILE))


def _read_config(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{file} is not valid JSON ({error}); fetch or train the heads again."
        ) from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} must hold a JSON object; fetch or train the heads again.")
    return config


def _stack(
    tensors: dict[str, torch.Tensor], file: Path
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Named tensors of one file -> weight (L, K, D, D), bias (L, K, 1, D), lm_heads (K, V, D) or None."""
    blocks = {
        (int(match[1]), int(match[2]))
        for name in tensors
        if (match := _BLOCK_KEY.fullmatch(name)) is not None
    }
    if not blocks:
        raise CheckpointError(f"{file} holds no Medusa heads: no tensor is named like 0.0.linear.weight.")
    num_heads, num_layers = max(h for h, _ in blocks) + 1, max(layer for _, layer in blocks) + 1
    own_lm_heads = f"0.{num_layers}.weight" in tensors

    def collect(pattern: str) -> torch.Tensor:
        names = [pattern.format(head=head) for head in range(num_heads)]
        missing = [name for name in names if name not in tensors]
        if missing:
            raise CheckpointError(f"{file} lacks the tensor {missing[0]}; fetch or train the heads again.")
        shapes = {tensors[name].shape for name in names}
        if len(shapes) > 1:
            raise CheckpointError(f"{file} has heads of different shapes in {pattern.format(head='*')}.")
        stacked = torch.stack([tensors[name] for name in names])
        if not torch.isfinite(stacked).all():
            raise CheckpointError(f"{file} holds values that are not numbers in {pattern.format(head='*')}.")
        return stacked

    layers = range(num_layers)
    weight = torch.stack([collect(f"{{head}}.{layer}.linear.weight") for layer in layers])
    bias = torch.stack([collect(f"{{head}}.{layer}.linear.bias") for layer in layers])
    hidden_size = weight.shape[-1]
    if weight.shape[2:] != (hidden_size, hidden_size) or bias.shape[2:] != (hidden_size,):
        raise CheckpointError(f"{file} has residual blocks that are not square: {tuple(weight.shape[2:])}.")
    lm_heads = collect(f"{{head}}.{num_layers}.weight") if own_lm_heads else None
    return weight, bias[:, :, None], lm_heads
