"""What decoders of our own know: the Llama family as its first model has it."""

from __future__ import annotations

from typing import Any

from torch import nn

from medusa_chat.footprint import LLAMA_FAMILY
from medusa_chat.model.attention import GROUPED_ATTENTION
from medusa_chat.model.base import BaseModel

# The others stretch with the length of the text.
_FIXED_ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})


def is_plain_llama(base: BaseModel) -> bool:
    """Whether the model is of the Llama family, without what our decoders don't know."""
    config = base.config
    if config.model_type not in LLAMA_FAMILY or config._attn_implementation != GROUPED_ATTENTION:
        return False
    decoder = base.causal_lm.get_decoder()
    rotary = decoder.rotary_emb
    return (
        config.hidden_act == "silu"
        and rotary.rope_type in _FIXED_ROPE_TYPES
        and 2 * len(rotary.inv_freq) == decoder.layers[0].self_attn.head_dim
        and len({type(linear) for layer in decoder.layers for linear in linears_of(layer)}) == 1
    )


def linears_of(layer: Any) -> list[nn.Module]:
    """Of a decoder layer, in the order of their use."""
    attention, mlp = layer.self_attn, layer.mlp
    return [
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
    ]
