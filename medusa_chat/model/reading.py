"""From a checkpoint's files to a transformers model on its device, a tensor at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from medusa_chat.model.architecture import PLAIN_ATTENTION, architecture
from medusa_chat.model.attention import GROUPED_ATTENTION
from medusa_chat.model.weight_files import unread_model


def read_model(
    weights: Path, base: Path, quantization_config: Any, device: torch.device, dtype: torch.dtype
) -> Any:
    """weights: the folder to read. base: the checkpoint that they are of, the same folder or that which they
    were quantised from. quantization_config: how to quantise them as they are read; None to leave them be.

    Raises UnsupportedModel, before any weights are read, for a model that can't verify a draft tree;
    CheckpointError for damaged files, and whatever transformers and torch raise.
    """
    config = AutoConfig.from_pretrained(weights, trust_remote_code=False)
    architecture(config)
    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    # Given a folder it would map whole files, and hold in memory what it has read of them until the end.
    causal_lm = type(outline).from_pretrained(
        None,
        config=outline.config,
        state_dict=unread_model(weights),
        generation_config=_read_generation_config(base),
        dtype=dtype,
        device_map={"": device},
        attn_implementation=GROUPED_ATTENTION if config.model_type in PLAIN_ATTENTION else "eager",
        quantization_config=quantization_config,
    )
    causal_lm.name_or_path = causal_lm.config.name_or_path = str(base)
    return causal_lm


def _read_generation_config(base: Path) -> GenerationConfig:
    """What ends a reply; of old checkpoints the model's own config says so."""
    if (base / GENERATION_CONFIG_NAME).is_file():
        return GenerationConfig.from_pretrained(base)
    return GenerationConfig.from_pretrained(base, config_file_name=CONFIG_NAME, _from_model_config=True)
