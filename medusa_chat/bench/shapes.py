"""Shapes of well-known models, by name: all it takes to measure speed without their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from medusa_chat.footprint import kv_row_bytes, matrix_bytes
from medusa_chat.records import KVPrecision, LMHeadPrecision, Quantization

RandomKind = Literal["block", "path"]  # of random heads
ShapeName = Literal[
    "llama-2-7b", "llama-2-13b", "llama-3-8b", "qwen2.5-7b", "mistral-7b", "tinyllama", "smollm2-135m"
]


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder of the Llama family. qkv_bias: q, k and v add one. tied: the LM head is the embedding."""

    name: str
    model_type: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    qkv_bias: bool = False
    tied: bool = False

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Name -> (out, in) features of a layer's linears, as an engine merges them."""
        qkv = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        return {
            "q/k/v": (qkv, self.hidden_size),
            "o": (self.hidden_size, self.num_heads * self.head_dim),
            "gate/up": (2 * self.intermediate_size, self.hidden_size),
            "down": (self.hidden_size, self.intermediate_size),
        }

    def bytes_read(
        self,
        quantization: Quantization,
        dtype_bytes: int,
        num_context: int,
        kv_cache: KVPrecision = "full",
        lm_head: LMHeadPrecision = "full",
        scale_bytes: int = 4,
    ) -> int:
        """What a plain step must read: every linear and the LM head once, and the cached keys and values.
        scale_bytes: of 64 weights in 4 bits.
        """
        per_layer = sum(
            matrix_bytes(outputs, inputs, quantization, dtype_bytes, scale_bytes)
            for outputs, inputs in self.linears.values()
        )
        row_bytes = kv_row_bytes(self.head_dim, kv_cache, dtype_bytes)
        per_layer += 2 * num_context * self.num_kv_heads * row_bytes
        held: Quantization = "none" if lm_head == "full" else "4bit"
        head = matrix_bytes(self.vocab_size, self.hidden_size, held, dtype_bytes, scale_bytes)
        return self.num_layers * per_layer + head

    def config(self, context_length: int) -> Any:
        """transformers' config of this shape, for at least context_length positions."""
        from transformers import AutoConfig

        fields = {"attention_bias": self.qkv_bias} if self.model_type == "llama" else {}
        return AutoConfig.for_model(
            self.model_type,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            max_position_embeddings=context_length,
            tie_word_embeddings=self.tied,
            sliding_window=None,
            **fields,
        )


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("llama-2-7b", "llama", 4096, 11008, 32, 32, 32, 128, 32000),
        Shape("llama-2-13b", "llama", 5120, 13824, 40, 40, 40, 128, 32000),
        Shape("llama-3-8b", "llama", 4096, 14336, 32, 32, 8, 128, 128256),
        Shape("qwen2.5-7b", "qwen2", 3584, 18944, 28, 28, 4, 128, 152064, qkv_bias=True),
        Shape("mistral-7b", "mistral", 4096, 14336, 32, 32, 8, 128, 32000),
        Shape("tinyllama", "llama", 2048, 5632, 22, 32, 4, 64, 32000),
        Shape("smollm2-135m", "llama", 576, 1536, 30, 9, 3, 64, 49152, tied=True),
    )
}
assert tuple(SHAPES) == get_args(ShapeName)
