"""What a model consists of, as its config and its files' headers tell. No torch here: the app asks too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from medusa_chat.footprint import HALF, LLAMA_FAMILY, kv_bytes_of, matrix_bytes, text_config
from medusa_chat.records import Quantization

_KEPT_WHOLE = ("embed", "wte", "wpe", "lm_head")  # in the names of what bitsandbytes leaves alone


@dataclass(frozen=True, slots=True)
class HeadSizes:
    """Numbers in Medusa heads. layers: in those before the LM heads; lm_heads: in LM heads of their own;
    vocabulary: tokens that they guess among by rows of the base's LM head, 0 for all of its tokens. kind: as
    model/heads.py has it.
    """

    layers: int
    lm_heads: int = 0
    vocabulary: int = 0
    kind: str = "block"


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What a model consists of. linears: (outputs, inputs) of those that may be quantised, and how many there
    are of each; whole: numbers in all other weights; stored: bytes of weights that are held as they come.
    kv_bytes: of one token, in 16 bits. context: the model's own; None where it isn't known. The rest is 0
    where only the number of weights is known.
    """

    linears: tuple[tuple[tuple[int, int], int], ...]
    whole: int
    kv_bytes: int
    context: int | None
    stored: int = 0
    has_own_decoder: bool = True
    is_tied: bool = False
    hidden: int = 0
    inner: int = 0
    num_heads: int = 0
    num_kv_heads: int = 0
    head_dim: int = 0
    vocabulary: int = 0

    def weights_bytes(
        self, quantization: Quantization, number_bytes: int = HALF, block: int = 1, scale_bytes: int = 4
    ) -> int:
        """By default as bitsandbytes holds them. block: inner positions to which 4-bit rows are filled up;
        scale_bytes: of each 64 of them.
        """
        block = block if quantization == "4bit" else 1
        linears = sum(
            count * matrix_bytes(rows, -(-columns // block) * block, quantization, number_bytes, scale_bytes)
            for (rows, columns), count in self.linears
        )
        return linears + number_bytes * self.whole + self.stored


def sizes_of(config: Mapping[str, Any], tensors: Mapping[str, Sequence[int]], stored: int = 0) -> ModelSizes:
    """Of a transformers checkpoint. tensors: shapes by name, as its files' headers tell. stored: bytes of all
    of them, where they are quantised on disk already.
    """
    text = text_config(config)
    is_tied = bool(text.get("tie_word_embeddings"))
    linears: Counter[tuple[int, int]] = Counter()
    whole = 0
    for name, shape in tensors.items():
        if name.startswith("medusa_head") or (is_tied and name == "lm_head.weight"):
            continue  # in memory the latter is the embedding
        if len(shape) == 2 and not any(part in name for part in _KEPT_WHOLE):
            linears[shape[0], shape[1]] += 1
        else:
            whole += prod(shape)
    hidden, num_heads = text.get("hidden_size") or 0, text.get("num_attention_heads") or 1
    return ModelSizes(
        linears=() if stored else tuple(linears.items()),
        whole=0 if stored else whole,
        kv_bytes=kv_bytes_of(config) or 0,
        context=own_context(text.get),
        stored=stored,
        has_own_decoder=text.get("model_type") in LLAMA_FAMILY,
        is_tied=is_tied,
        hidden=hidden,
        inner=text.get("intermediate_size") or 4 * hidden,
        num_heads=num_heads,
        num_kv_heads=text.get("num_key_value_heads") or num_heads,
        head_dim=text.get("head_dim") or hidden // num_heads,
        vocabulary=text.get("vocab_size") or 0,
    )


def sizes_about(num_weights: int, kv_bytes: int, context: int | None) -> ModelSizes:
    """Of a model of which no more is known: as if all of it could be quantised and ran in our decoders."""
    return ModelSizes((((num_weights // 128, 128), 1),), 0, kv_bytes, context)


def own_context(told: Callable[[str], Any]) -> int | None:
    """Tokens a conversation may have, by what a config file tells; model/architecture.py asks transformers'
    own config. Our own decoders stay within a sliding window.
    """
    longest: int | None = told("max_position_embeddings")
    slides = told("model_type") in LLAMA_FAMILY and told("use_sliding_window") is not False
    window: int | None = told("sliding_window") if slides else None
    return None if longest is None else min(longest, window or longest)
