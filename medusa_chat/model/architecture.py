"""What a model's config tells before any weights are loaded: whether its drafts can be verified as a tree,
how long a conversation may be, and how far back each of its layers sees.

A row verified in a tree must depend on its position and on the rows it may see, and on nothing else. That
rules out models that carry a state from token to token (Mamba, RWKV, the linear attention of newer hybrids)
and those that tell where a token stands by its place in memory (ALiBi). What a config doesn't tell,
check_trees_work in model/loading.py asks of the model itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medusa_chat.errors import UnsupportedModel
from medusa_chat.footprint import LLAMA_FAMILY

# Model types whose attention is exactly softmax(scale · QK^T + mask)V: it can be ours (model/attention.py).
# Gemma 2's is not: it bends the scores.
PLAIN_ATTENTION = LLAMA_FAMILY | {
    *("gemma", "gemma3", "gemma3_text", "phi", "phi3", "olmo", "olmo2", "olmo3", "granite", "starcoder2"),
    *("cohere", "cohere2", "exaone4", "glm", "glm4", "gpt_neox", "ministral", "smollm3", "stablelm"),
}
_FULL, _SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, slots=True)
class Architecture:
    """context_length: tokens a conversation may have. windows: for each type of attention layer that the
    model has, how many tokens a row sees, itself and those before it; None: all.
    """

    context_length: int
    windows: Mapping[str, int | None]


def architecture(config: Any) -> Architecture:
    """Of a transformers config. Raises UnsupportedModel for a model that can't verify a draft tree."""
    if config.is_encoder_decoder:
        raise _refused(config, "read with an encoder, apart from what they write")
    config = config.get_text_config()
    context_length, windows = _context_length(config), _windows(config)
    if getattr(config, "alibi", False):
        raise _refused(config, "tell where a token stands by its place in memory (ALiBi)")
    if "local" in getattr(config, "attention_layers", ()):  # GPT-Neo's
        raise _refused(config, "have windows of their own, which count places in memory")
    window = min((window for window in windows.values() if window is not None), default=context_length)
    if config.model_type in LLAMA_FAMILY and window < context_length:
        # Within the window they are plain Llamas, which our own decoders run. Those that have one at all
        # (Mistral 7B v0.1, Zephyr) learnt from texts no longer than it.
        return Architecture(window, {_FULL: None})
    return Architecture(context_length, windows)


def _context_length(config: Any) -> int:
    longest: int | None = getattr(config, "max_position_embeddings", None)
    if longest is None:
        raise _refused(config, "number no positions")
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        # Beyond it every token before is turned by other angles than it was when it was cached.
        return min(longest, int(rope["original_max_position_embeddings"]))
    return longest


def _windows(config: Any) -> dict[str, int | None]:
    window: int | None = getattr(config, "sliding_window", None)
    types = set(getattr(config, "layer_types", None) or [_SLIDING if window else _FULL])
    if others := sorted(types - {_FULL, _SLIDING}):
        raise _refused(config, f"have layers of type {', '.join(others)}")
    return {kind: window if kind == _SLIDING else None for kind in sorted(types)}


def _refused(config: Any, what_they_do: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{config.model_type} models {what_they_do}, so they can't verify a draft tree; "
        "choose a model of another architecture."
    )
