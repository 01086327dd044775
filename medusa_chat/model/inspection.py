"""What a checkpoint on disk is, told from headers and names alone: no weights are read, nothing is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from medusa_chat.checkpoints.weight_names import MODEL_FILES
from medusa_chat.errors import CheckpointError, UnsupportedModel
from medusa_chat.footprint import HALF, LLAMA_FAMILY, text_config
from medusa_chat.model.architecture import architecture
from medusa_chat.model.head_files import HEAD_FILES, are_heads, build_heads, find_head_tensors
from medusa_chat.model.head_layouts import LAYOUTS
from medusa_chat.model.head_tensors import HeadTensors
from medusa_chat.model.heads import CONFIG_FILE, MedusaHeads
from medusa_chat.model.weight_files import find_weight_files, outline_base, read_config
from medusa_chat.model_sizes import sizes_of
from medusa_chat.records import Quantization

Report = dict[str, Any]


def inspect_source(source: Path) -> Report:
    """A folder or a weight file: `base`, `heads` or both, None for what it doesn't hold.

    Raises CheckpointError naming what is missing or damaged.
    """
    if source.is_dir() and not find_weight_files(source, HEAD_FILES):
        raise CheckpointError(
            f"{source} holds neither a model nor Medusa heads: it has none of {', '.join(HEAD_FILES)}."
        )
    found = find_head_tensors(source, outline=True)
    heads = _describe_heads(found) if are_heads(found) else None
    base = _describe_base(source)
    if heads is None and base is None:
        build_heads(found)  # says that there are none
    return {"base": base, "heads": heads}


def _describe_heads(found: HeadTensors) -> Report:
    heads = build_heads(found)
    layout = heads.layout or ""
    return {
        "source": str(found.place),
        "format": layout,
        "format_of": LAYOUTS[layout],
        "kind": heads.kind,
        "heads": heads.num_heads,
        "layers": heads.num_layers,
        "lm_head": _lm_head(heads),
        "vocabulary": heads.lm_head_size if heads.vocabulary is None else len(heads.vocabulary),
        "hidden_size": heads.hidden_size,
        "dtype": _dtypes(found.used),
        "parameters": sum(tensor.numel() for tensor in heads.parameters()),
        "memory_bytes": HALF * sum(tensor.numel() for tensor in heads.parameters()),
        "fits": {
            "base": heads.config.get("base_model_name_or_path"),
            "fingerprint": heads.config.get("base_fingerprint"),
            "hidden_size": heads.hidden_size,
            "vocabulary": heads.lm_head_size if heads.vocabulary is None else None,
            "vocabulary_at_least": None if heads.vocabulary is None else int(heads.vocabulary.max()) + 1,
        },
        "tensors": {name: list(tensor.shape) for name, tensor in found.used.items()},
        "remarks": list(heads.remarks),
    }


def _lm_head(heads: MedusaHeads) -> str:
    lm_heads = getattr(heads, "lm_heads", None)
    if lm_heads is None:
        return "the base's"
    return "one each" if len(lm_heads) == heads.num_heads else "one for all"


def _describe_base(source: Path) -> Report | None:
    folder, files = source, find_weight_files(source, MODEL_FILES)
    if source.is_file():
        folder, files = source.parent, [source]
    config = read_config(folder / CONFIG_FILE)
    if not files or "model_type" not in config or config["model_type"] == "medusa":
        return None
    tensors = outline_base(files)
    text = text_config(config)
    if text.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)  # in memory it is the embedding
    return {
        "source": str(source),
        "files": [file.name for file in files],
        "architecture": next(iter(config.get("architectures") or ()), None),
        "model_type": config["model_type"],
        "layers": text.get("num_hidden_layers"),
        "hidden_size": text.get("hidden_size"),
        "vocabulary": text.get("vocab_size"),
        "context": text.get("max_position_embeddings"),
        **_how_it_runs(folder),
        "dtype": _dtypes(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "memory_bytes": _memory(config, tensors),
    }


def _how_it_runs(folder: Path) -> Report:
    """As far as the config tells: `decoder`, `windows`, and `longest_conversation` where that is less than
    the context; or why it is `refused`.
    """
    from transformers import AutoConfig  # it takes a second, which heads don't need

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        limits = architecture(config)
    except UnsupportedModel as error:
        return {"refused": str(error)}
    except (OSError, ValueError, KeyError, TypeError):
        return {"refused": "This kind of model is not known here."}
    context: int = config.get_text_config().max_position_embeddings
    return {
        "longest_conversation": limits.context_length if limits.context_length < context else None,
        "windows": {kind: window for kind, window in limits.windows.items() if window is not None},
        "decoder": "our own" if config.model_type in LLAMA_FAMILY else "transformers'",
    }


def _memory(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """By quantisation; of weights that are quantised on disk already, as they are."""
    if "quantization_config" in config:
        return {"as stored": sum(tensor.nbytes for tensor in tensors.values())}
    sizes = sizes_of(config, {name: tensor.shape for name, tensor in tensors.items()})
    return {quantization: sizes.weights_bytes(quantization) for quantization in get_args(Quantization)}


def _dtypes(tensors: Mapping[str, torch.Tensor]) -> str:
    """The dtype of most numbers first, then any others."""
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        if tensor.is_floating_point():
            sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    return ", ".join(dtype for dtype, _ in sizes.most_common())
