"""Small real things for tests: a random Llama, a base model that is one table, heads for both."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from medusa_chat.model.attention import GROUPED_ATTENTION
from medusa_chat.model.base import BaseModel
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.cache import KVCache
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.path_heads import PathHeads
from medusa_chat.records import KVPrecision


def tiny_llama(
    *, vocab_size: int = 64, hidden_size: int = 32, attention: str = GROUPED_ATTENTION, context: int = 256
) -> BaseModel:
    """Two layers, two query heads a KV head, random weights large enough for peaked predictions."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
    )
    torch.manual_seed(7)
    causal_lm = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in causal_lm.named_parameters():
            if "norm" not in name:
                parameter.normal_(0.0, 0.3)
    return BaseModel(causal_lm.requires_grad_(False))


class TableModel(BaseModel):
    """A base model whose next-token logits are the row of a table (V, V) that the last token names."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table
        self.hidden_size = self.vocab_size = len(table)
        self.device = torch.device("cpu")
        self.dtype = torch.float32
        self.context_length = 10_000

    def new_cache(self, max_length: int | None = None, kv_cache: KVPrecision = "full") -> KVCache:
        return KVCache(0, self.context_length, torch.float32)

    def forward(
        self,
        ids: torch.Tensor,
        cache: KVCache,
        positions: torch.Tensor | None = None,
        visible: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return self.hidden_states(ids)

    def hidden_states(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(ids.long(), self.vocab_size).float()

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(ids, self.vocab_size).float()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.table


def table_heads(table: torch.Tensor, num_heads: int) -> MedusaHeads:
    """Heads that know the table: head k guesses by its (k + 1)-step argmax, as well as anyone can."""
    size = len(table)
    probs = table.softmax(-1)
    lm_heads, reach = [], probs
    for _ in range(num_heads):
        reach = reach @ probs
        lm_heads.append(reach.T)
    return BlockHeads(
        torch.zeros(1, num_heads, size, size), torch.zeros(1, num_heads, 1, size), torch.stack(lm_heads)
    )


def random_path_heads(base: BaseModel, num_heads: int, vocabulary: torch.Tensor | None = None) -> PathHeads:
    """Two layers that know nothing but whose guesses differ from path to path."""
    heads = PathHeads.fresh(num_heads, 2, 24, base.hidden_size, vocabulary)
    with torch.no_grad():
        for name, parameter in heads.named_parameters():
            if "gate_up" not in name:
                parameter.normal_(0.0, 0.5)
    return heads.requires_grad_(False)


def random_heads(base: BaseModel, num_heads: int, *, own_lm_heads: bool = False) -> MedusaHeads:
    """Heads that know nothing."""
    size = base.hidden_size
    return BlockHeads(
        torch.randn(2, num_heads, size, size) * 0.3,
        torch.randn(2, num_heads, 1, size) * 0.3,
        torch.randn(num_heads, base.vocab_size, size) if own_lm_heads else None,
    )
