"""How heads are trained. Every default of training stands here, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

HeadKind = Literal["block", "mlp", "path"]
BackboneLoss = Literal["self-distilled", "labels"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """head_kind: of medusa_chat/model's heads. num_layers: blocks or gated layers (wider MLPs have one).
    head_width: hidden units of a layer, in hidden sizes (not of blocks, which are square). vocabulary_share:
    of the answers' tokens that the heads' vocabulary must cover. num_tokens: positions of self-written
    dialogue (about two thirds of them answers). sequence_length and batch_size: of a training step, tokens
    and sequences. answer_temperature: of half the answers; the other half are greedy, as heads are used most.
    """

    head_kind: HeadKind = "path"
    num_heads: int = 5
    num_layers: int = 2
    head_width: float = 1.0
    vocabulary_share: float = 0.99
    num_tokens: int = 4_000_000
    epochs: int = 5
    sequence_length: int = 640
    batch_size: int = 48
    learning_rate: float = 1e-3
    warmup_steps: int = 40
    weight_decay: float = 0.01
    head_discount: float = 0.8  # L = Σ_k 0.8^k CE_k   (paper, §2.2.1)
    user_temperature: float = 1.0
    answer_temperature: float = 0.7
    held_out: float = 0.02
    seed: int = 0

    @property
    def num_sequences(self) -> int:
        return max(3, self.num_tokens // self.sequence_length)


@dataclass(frozen=True, slots=True)
class AdapterRecipe:
    """How the base learns beside its heads in Medusa-2's second stage (paper, §2.2.2 and §2.3.2).

    backbone_loss: what keeps the base as good as it is. "self-distilled": KL from the base without its
    adapter, for answers of its own; "labels": cross-entropy with the answers' tokens, where it should learn
    them. learning_rate: of the adapter; the heads' is heads_speed times as high. heads_weight: λ0 in
    L = L_backbone + λ0 · L_heads; self-distilled it rises to that, as a sine's first quarter.
    """

    backbone_loss: BackboneLoss = "self-distilled"
    rank: int = 32
    alpha: int = 16
    dropout: float = 0.05
    epochs: int = 3
    learning_rate: float = 3e-4
    heads_speed: float = 1.0
    warmup_steps: int = 40
    heads_weight: float = 0.03


SELF_DISTILLED = AdapterRecipe()
LABELS = AdapterRecipe(backbone_loss="labels", learning_rate=5e-4, heads_speed=4.0, heads_weight=0.2)


def first_difference(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """Says in what `found` is not what is wanted, or None where it is."""
    for name, value in wanted.items():
        if found.get(name) != value:
            return f"{name} = {found.get(name)}, not {value}"
    return None
