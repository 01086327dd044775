"""Models and heads of random weights, built on the device itself: as fast as real ones, and as large.

Such a model says nothing of how many drafts are accepted. Weights are made and quantised one linear at a
time, so that building one takes hardly more memory than holding it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from medusa_chat.bench.shapes import RandomKind, Shape
from medusa_chat.model.attention import GROUPED_ATTENTION
from medusa_chat.model.base import BaseModel
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.loading import quantization_config_for, silence_libraries
from medusa_chat.model.path_heads import PathHeads
from medusa_chat.records import Quantization

_STD = 0.02  # of all weights, as transformers initialises a Llama


def random_model(
    shape: Shape, quantization: Quantization, device: torch.device, dtype: torch.dtype, context_length: int
) -> BaseModel:
    """A model of this shape as load_base_model would give it, for context_length tokens."""
    silence_libraries()
    config = shape.config(context_length)
    with torch.device("meta"):
        causal_lm = AutoModelForCausalLM.from_config(
            config, attn_implementation=GROUPED_ATTENTION, dtype=dtype
        )
    _quantise(causal_lm, ["lm_head"], quantization, dtype)
    for module in causal_lm.modules():
        _materialise(module, device, dtype)
    decoder = causal_lm.model
    with device:
        decoder.rotary_emb = type(decoder.rotary_emb)(config=config)
    causal_lm.tie_weights()
    causal_lm.generation_config.eos_token_id = None  # an end met by chance would cut a measurement short
    return BaseModel(causal_lm.requires_grad_(False))


def random_linear(
    outputs: int, inputs: int, quantization: Quantization, device: torch.device, dtype: torch.dtype
) -> Any:
    """One linear layer, held as random_model holds its own."""
    silence_libraries()
    with torch.device("meta"):
        holder = nn.Sequential(nn.Linear(inputs, outputs, bias=False, dtype=dtype))
    _quantise(holder, [], quantization, dtype)
    _materialise(holder[0], device, dtype)
    return holder[0]


def random_heads(base: BaseModel, num_heads: int, kind: RandomKind = "block") -> MedusaHeads:
    """Heads on the base's device and in its dtype: of one block and an LM head each, as published ones are,
    or path-aware ones of two layers as wide as the base, which guess among a third of its vocabulary.
    """
    size, vocab_size = base.hidden_size, base.vocab_size
    if kind == "path":
        vocabulary = torch.arange(0, vocab_size, 3)
        heads = PathHeads.fresh(num_heads, 2, size, size, vocabulary)
        return heads.to(base.device, base.dtype).requires_grad_(False)

    def weights(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device=base.device, dtype=base.dtype).normal_(0.0, _STD)

    return BlockHeads(
        weights(1, num_heads, size, size),
        weights(1, num_heads, 1, size),
        weights(num_heads, vocab_size, size),
    ).requires_grad_(False)


def _quantise(module: Any, whole: list[str], quantization: Quantization, dtype: torch.dtype) -> None:
    """Exchanges its linears, still without values, for bitsandbytes' ones, but for those to be left whole."""
    if quantization != "none":
        from transformers.integrations import replace_with_bnb_linear  # bitsandbytes speaks as it is imported

        replace_with_bnb_linear(module, whole, quantization_config_for(quantization, dtype))


def _materialise(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Gives the module's own parameters random values on the device: ones where they scale a norm."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        value = torch.empty(parameter.shape, device=device, dtype=dtype)
        if parameter.dim() == 1 and name == "weight":
            value.fill_(1.0)
        else:
            value.normal_(0.0, _STD)
        setattr(module, name, _held_as(parameter, value))


def _held_as(parameter: Any, value: torch.Tensor) -> nn.Parameter:
    """The value as the kind of parameter that stood in its place, quantised if that is."""
    match type(parameter).__name__:
        case "Params4bit":
            held: nn.Parameter = type(parameter)(value, **parameter.__dict__).to(value.device)
        case "Int8Params":
            from bitsandbytes.functional import int8_vectorwise_quant

            # Int8Params itself would take its values from the host.
            quantised, scales, _ = int8_vectorwise_quant(value.half())
            held = type(parameter)(quantised, requires_grad=False, CB=quantised, SCB=scales)
        case _:
            held = nn.Parameter(value, requires_grad=False)
    return held
