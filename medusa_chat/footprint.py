"""What a model takes in memory: weights, heads, keys and values. No torch here: the app asks as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medusa_chat.records import KVPrecision, Quantization

# What a weight takes in memory; 4 bits have their scales beside them.
BYTES_PER_WEIGHT: Mapping[Quantization, float] = {"4bit": 0.56, "8bit": 1.0, "none": 2.0}
HALF = 2  # bytes of a number in 16 bits
# Model types that decoders of our own run: model/lean.py and model/fused.py.
LLAMA_FAMILY = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_NF4_BLOCK = 64  # weights to a scale
_SCALE = 4  # bytes; a row of the KV cache in 8 bits has one too


def weights_bytes(num_weights: int, quantization: Quantization, number_bytes: int = HALF) -> int:
    """About, of a whole model. number_bytes: of what is not quantised."""
    per_weight = number_bytes if quantization == "none" else BYTES_PER_WEIGHT[quantization]
    return round(num_weights * per_weight)


def matrix_bytes(
    rows: int,
    columns: int,
    quantization: Quantization,
    number_bytes: int = HALF,
    scale_bytes: int = _SCALE,
) -> int:
    """Of one linear's weights: 4-bit blocks have a scale each, by bitsandbytes of 4 bytes, in our own kernels
    of 2; 8-bit rows one of 4.
    """
    count = rows * columns
    match quantization:
        case "4bit":
            return count // 2 + scale_bytes * (count // _NF4_BLOCK)
        case "8bit":
            return count + _SCALE * rows
        case "none":
            return number_bytes * count


def kv_row_bytes(head_dim: int, kv_cache: KVPrecision, number_bytes: int = HALF) -> int:
    """Of one token's key, or value, of one layer and head. number_bytes: of what is not quantised."""
    return number_bytes * head_dim if kv_cache == "full" else head_dim + _SCALE


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A transformers config, or of a model that does more than text the part of text."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def kv_bytes_of(config: Mapping[str, Any], kv_cache: KVPrecision = "full") -> int | None:
    """Of one token's keys and values in 16 bits, or in 8, told from a transformers config; None if it can't
    be.
    """
    text = text_config(config)
    layers, heads = text.get("num_hidden_layers"), text.get("num_attention_heads")
    kv_heads = text.get("num_key_value_heads") or heads
    head_dim = text.get("head_dim") or _ratio(text.get("hidden_size"), heads)
    numbers = (layers, kv_heads, head_dim)
    if not all(isinstance(number, int) and number > 0 for number in numbers):
        return None
    return 2 * layers * kv_heads * kv_row_bytes(head_dim, kv_cache)  # type: ignore[operator,arg-type]


def _ratio(whole: Any, part: Any) -> int | None:
    return whole // part if isinstance(whole, int) and isinstance(part, int) and part > 0 else None
