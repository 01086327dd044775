"""Which files of a repository are needed: weights in one format, and what is small and no program."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

from medusa_chat.checkpoints.soundness import HEADS_FILES
from medusa_chat.checkpoints.weight_names import INDEX, MODEL_FILES, shard_pattern

Wanted = Literal["model", "heads"]

# An index goes with its shards; one set of weights is enough.
_BASE_WEIGHTS = tuple(
    re.escape(name) + (f"|{shard_pattern(name).pattern}" if name.endswith(INDEX) else "")
    for name in MODEL_FILES
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


def choose_files(names: Collection[str], wanted: Wanted) -> list[str]:
    """Small files first, so that a pull that is refused is refused early; [] without weights we can load."""
    sets = (sorted(filter(re.compile(pattern).fullmatch, names)) for pattern in _WEIGHTS[wanted])
    weights = next((found for found in sets if any(not name.endswith(INDEX) for name in found)), [])
    if not weights:
        return []
    small = (name for name in filter(_SMALL[wanted].fullmatch, names) if not name.endswith(INDEX))
    return [*sorted(small), *sorted(weights, key=lambda name: not name.endswith(INDEX))]
