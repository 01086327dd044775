"""Which files of a repository are needed: weights in one format, and what is small and no program."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

from medusa_chat.checkpoints.soundness import HEADS_FILES

Wanted = Literal["model", "heads"]

# What transformers loads, in the order it prefers; one set is enough.
_BASE_WEIGHTS = (
    r"model\.safetensors",
    r"model-\d+-of-\d+\.safetensors|model\.safetensors\.index\.json",
    r"pytorch_model\.bin",
    r"pytorch_model-\d+-of-\d+\.bin|pytorch_model\.bin\.index\.json",
)
_WEIGHTS: dict[Wanted, tuple[str, ...]] = {
    "model": _BASE_WEIGHTS,
    # Heads may lie in the weights of their base.
    "heads": (*map(re.escape, HEADS_FILES), *_BASE_WEIGHTS),
}
_SMALL: dict[Wanted, re.Pattern[str]] = {
    # Not adapter_config.json, for which transformers would fetch and load another model.
    "model": re.compile(
        r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|tekken"
        r"|chat_template)\.json|[^/]+\.(jinja|model|tiktoken)|(vocab|merges)\.txt"
    ),
    "heads": re.compile(r"config\.json|adapter/adapter_config\.json|adapter/adapter_model\.safetensors"),
}
_INDEX = ".index.json"


def choose_files(names: Collection[str], wanted: Wanted) -> list[str]:
    """Small files first, so that a pull that is refused is refused early; [] without weights we can load."""
    sets = (sorted(filter(re.compile(pattern).fullmatch, names)) for pattern in _WEIGHTS[wanted])
    weights = next((found for found in sets if any(not name.endswith(_INDEX) for name in found)), [])
    if not weights:
        return []
    small = (name for name in filter(_SMALL[wanted].fullmatch, names) if not name.endswith(_INDEX))
    return [*sorted(small), *sorted(weights, key=lambda name: not name.endswith(_INDEX))]
