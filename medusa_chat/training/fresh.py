"""Untrained heads as a recipe asks for them, and the vocabulary that they guess among."""

from __future__ import annotations

import torch

from medusa_chat.errors import UnsupportedModel
from medusa_chat.model.base import BaseModel
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.mlp_heads import MlpHeads
from medusa_chat.model.path_heads import PathHeads
from medusa_chat.training.dialogues import Dialogues
from medusa_chat.training.recipe import Recipe

_WIDTH_MULTIPLE = 16  # what products on tensor cores are made of
_VOCABULARY_MULTIPLE = 128


def fresh_heads(base: BaseModel, recipe: Recipe, vocabulary: torch.Tensor | None = None) -> MedusaHeads:
    """Of the recipe's kind and size, in float32 on the base's device; the same seed gives the same ones.
    vocabulary (V',): see draft_vocabulary.
    """
    count, layers, size = recipe.num_heads, recipe.num_layers, base.hidden_size
    width = max(1, round(recipe.head_width * size / _WIDTH_MULTIPLE)) * _WIDTH_MULTIPLE
    torch.manual_seed(recipe.seed)
    heads: MedusaHeads
    match recipe.head_kind:
        case "block":
            heads = BlockHeads.fresh(count, layers, size, vocabulary)
        case "mlp":
            heads = MlpHeads.fresh(count, width, size, vocabulary)
        case "path":
            heads = PathHeads.fresh(count, layers, width, size, vocabulary)
    return heads.to(base.device)


def check_shares_sizes(base: BaseModel) -> None:
    """Raises UnsupportedModel for a base whose LM head or embedding, which heads share, is of another size
    than its hidden states.
    """
    embedding = base.causal_lm.get_input_embeddings().weight
    for what, size in (("LM head", base.lm_head_weight.shape[1]), ("embedding", embedding.shape[1])):
        if size != base.hidden_size:
            raise UnsupportedModel(
                f"Heads can't be trained for this model: they share its {what}, whose size is {size:,} where "
                f"its hidden states have {base.hidden_size:,}; choose a model that projects neither."
            )


def draft_vocabulary(dialogues: Dialogues, share: float, vocab_size: int) -> torch.Tensor | None:
    """(V',) int64, ascending: the most frequent of the answers' tokens, as few as make up this share of them,
    filled up to a multiple. None: all tokens, where fewer would spare less than half of the LM head.
    """
    answered = dialogues.ids[dialogues.answer].long()
    counts, tokens = torch.bincount(answered, minlength=vocab_size).sort(descending=True, stable=True)
    needed = int((counts.cumsum(0) < share * len(answered)).sum()) + 1
    size = -(-needed // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE
    return None if 2 * size > vocab_size else tokens[:size].sort().values
