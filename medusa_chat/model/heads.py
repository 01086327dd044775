"""Medusa heads of any kind: K guesses of what follows the token that the base model has just decided.

The base's last hidden state h and LM head give the token t + 1, the root of the next draft; head k, from 0,
guesses token t + 2 + k (paper, §2.1.1). What kinds there are: block_heads.py, mlp_heads.py, path_heads.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import safetensors.torch
import torch
from torch import nn

from medusa_chat.errors import HeadsMismatch
from medusa_chat.files import write_whole, writing

if TYPE_CHECKING:
    from medusa_chat.model.base import BaseModel  # transformers takes seconds to import

WEIGHTS_FILE = "medusa_lm_head.safetensors"
PICKLE_FILE = "medusa_lm_head.pt"
CONFIG_FILE = "config.json"
TOKEN_MAP = "token_map"


class MedusaHeads(nn.Module):
    """K heads over hidden size D, whose states an LM head of V' tokens turns into logits: the base's own, or
    its rows for the heads' vocabulary.

    config: what the checkpoint says of itself (base model, fingerprint, calibration). vocabulary (V',) int64:
    the tokens that are guessed among; None: all. source, layout, remarks: of heads from disk, where they lie,
    in which form (head_layouts.py), and sentences on what config.json says wrongly.
    """

    source: Path | None = None
    layout: str | None = None
    remarks: tuple[str, ...] = ()
    kind: ClassVar[str]
    # Whether a guess follows from the tokens before it in its path too, so that a tree is drafted by levels.
    sees_path: ClassVar[bool] = False
    vocabulary: torch.Tensor | None

    def __init__(self, vocabulary: torch.Tensor | None = None, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.register_buffer("vocabulary", vocabulary, persistent=False)
        self.config = config or {}
        self._shared_with: BaseModel | None = None
        self._draft_head: Callable[[torch.Tensor], torch.Tensor] | None = None

    @property
    def num_heads(self) -> int:
        raise NotImplementedError

    @property
    def num_layers(self) -> int:
        raise NotImplementedError

    @property
    def hidden_size(self) -> int:
        raise NotImplementedError

    @property
    def lm_head_size(self) -> int | None:
        """Tokens of the heads' own LM heads; None where they share the base's."""
        return None

    def rows(self, hidden: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
        """Each head's state (K, n, D), before the LM head, of n places in known text.

        hidden (n, D): of tokens t. path (K, n, D): embeddings of tokens t + 1, …, t + K, of which head k may
        see the first k + 1.
        """
        raise NotImplementedError

    def logits_of(self, rows: torch.Tensor, base: BaseModel) -> torch.Tensor:
        """Each head's states (K, n, D) -> logits (K, n, V')."""
        return self.shared_logits(rows.flatten(0, 1), base).view(*rows.shape[:2], -1)

    def logits(self, hidden: torch.Tensor, base: BaseModel) -> torch.Tensor:
        """One hidden state (1, D) -> (K, V'), of heads that see no path."""
        raise NotImplementedError

    def tensors(self) -> dict[str, torch.Tensor]:
        """By the names they have on disk, the vocabulary aside."""
        raise NotImplementedError

    @property
    def num_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.parameters())

    @property
    def calibration(self) -> dict[tuple[int, ...], float]:
        """Path of guesses -> how often it was right on held-out replies; empty if the heads bring none.

        Raises ValueError for what no measurement gave.
        """
        stored = self.config.get("path_probability", {})
        if not isinstance(stored, dict):
            raise ValueError("no object")
        found = {tuple(map(int, path.split())): float(share) for path, share in stored.items()}
        for path, share in found.items():
            is_tree = len(path) == 1 or path[:-1] in found
            if not (is_tree and 0 < len(path) <= self.num_heads and min(path) >= 0 and 0 <= share <= 1):
                raise ValueError(f"wrong at {' '.join(map(str, path))!r}")
        return found

    @property
    def adapter(self) -> str | None:
        """Digest of the adapter they were trained with, if any: they guess what the adapted base says."""
        return self.config.get("adapter")

    def tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """Numbers among the V' tokens that are guessed among -> the tokens."""
        return ids if self.vocabulary is None else self.vocabulary[ids]

    def shared_logits(self, rows: torch.Tensor, base: BaseModel) -> torch.Tensor:
        """States (n, D) -> logits (n, V') by the base's LM head."""
        if self._draft_head is None or self._shared_with is not base:
            self._draft_head, self._shared_with = base.draft_head(self.vocabulary), base
        return self._draft_head(rows)

    def check_sizes(self, hidden_size: int, vocab_size: int, base_name: str) -> None:
        """Raises HeadsMismatch, naming both sides, unless a base model of these sizes could be theirs."""
        if self.hidden_size != hidden_size:
            raise HeadsMismatch(
                f"{self._name} are for a hidden size of {self.hidden_size}, "
                f"but {base_name} has {hidden_size}; choose heads trained for it."
            )
        guessed = self.lm_head_size
        if self.vocabulary is not None:
            guessed = max(vocab_size, int(self.vocabulary.max()) + 1)
        if guessed not in (None, vocab_size):
            raise HeadsMismatch(
                f"{self._name} have a vocabulary of {guessed}, "
                f"but {base_name} has {vocab_size}; choose heads trained for it."
            )

    def check_fits(self, base: BaseModel, base_name: str) -> None:
        """Raises HeadsMismatch, naming both sides, unless these heads were made for this base model."""
        self.check_sizes(base.hidden_size, base.vocab_size, base_name)
        made_for = self.config.get("base_fingerprint")
        if made_for is not None and made_for != base.fingerprint:
            raise HeadsMismatch(
                f"{self._name} were trained for "
                f"{self.config.get('base_model_name_or_path', 'another model')} (fingerprint {made_for}), "
                f"but {base_name} has fingerprint {base.fingerprint}; choose heads trained for it."
            )

    def share_lm_head(self, base: BaseModel) -> None:
        """Gives up one LM head for all heads that is only a copy of the base's."""

    @property
    def _name(self) -> str:
        return "These heads" if self.source is None else f"The heads in {self.source}"

    def save(self, folder: Path) -> None:
        """Writes weights and config.json into `folder`. Raises CheckpointError on a full disk and such."""
        tensors = self.tensors()
        if self.vocabulary is not None:
            tensors[TOKEN_MAP] = self.vocabulary.int()
        config = {
            "version": "1" if self.lm_head_size is not None else "2",
            "medusa_num_heads": self.num_heads,
            "medusa_num_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "kind": self.kind,
            **self.config,
        }
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        on_cpu = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
        write_whole(folder / WEIGHTS_FILE, safetensors.torch.save(on_cpu))
        write_whole(folder / CONFIG_FILE, (json.dumps(config, indent=1) + "\n").encode())
