"""Reading heads from disk: kind, counts and shapes come from the tensors, not from config.json.

Block heads may come from other programs too (head_layouts.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medusa_chat.checkpoints.weight_names import MODEL_FILES
from medusa_chat.errors import CheckpointError
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.block_names import REFERENCE, VLLM, BlockNames
from medusa_chat.model.head_layouts import contradictions, layout_of
from medusa_chat.model.head_tensors import HeadTensors
from medusa_chat.model.heads import CONFIG_FILE, PICKLE_FILE, TOKEN_MAP, WEIGHTS_FILE, MedusaHeads
from medusa_chat.model.mlp_heads import MlpHeads
from medusa_chat.model.path_heads import GatedLayer, PathHeads
from medusa_chat.model.weight_files import find_weight_files, open_weight_file, read_config

# Where heads may lie in a folder: first those that are there by themselves.
HEAD_FILES = (WEIGHTS_FILE, PICKLE_FILE, *MODEL_FILES)
_MLP = re.compile(r"(\d{1,4})\.mlp\.\w+\.\w+")
_PATH = re.compile(r"path\.(\d{1,4})\.\w+\.weight")


def load_heads(source: Path) -> MedusaHeads:
    """Heads of any kind and layout, from a folder or one file.

    Raises CheckpointError naming the file and what is wrong with it.
    """
    return build_heads(find_head_tensors(source))


def outline_heads(source: Path) -> MedusaHeads:
    """As load_heads, but on the meta device, without values: what the files' headers tell. Takes no time."""
    return build_heads(find_head_tensors(source, outline=True))


def find_head_tensors(source: Path, *, outline: bool = False) -> HeadTensors:
    """What load_heads builds from. Raises CheckpointError if there is no such file or it can't be opened."""
    paths = find_weight_files(source, HEAD_FILES) if source.is_dir() else [source]
    if not paths:
        raise CheckpointError(
            f"There are no Medusa heads in {source}: it has none of {', '.join(HEAD_FILES)}."
        )
    place = source if len(paths) > 1 else paths[0]
    return HeadTensors(place, [open_weight_file(path) for path in paths], outline=outline)


def build_heads(found: HeadTensors) -> MedusaHeads:
    """Raises CheckpointError naming the file and what is wrong with it."""
    config_file = found.folder / CONFIG_FILE
    for names, build in _KINDS:
        if found.matching(names):
            heads = build(found, read_config(config_file))
            heads.source = found.place
            heads.layout = layout_of(heads, found)
            heads.remarks = contradictions(heads, found, config_file)
            _check_calibration(heads, config_file)
            return heads
    raise CheckpointError(f"{found.place} holds no Medusa heads: no tensor is named like 0.0.linear.weight.")


def _check_calibration(heads: MedusaHeads, config_file: Path) -> None:
    try:
        _ = heads.calibration
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{config_file} has a path_probability that can't be used ({error}); remove it, "
            "or fetch or train the heads again."
        ) from None


def are_heads(found: HeadTensors) -> bool:
    """Whether there are heads among these tensors, sound or not."""
    return any(found.matching(names) for names, _ in _KINDS)


def holds_heads(folder: Path) -> bool:
    """Whether a base model's own files hold heads too. Raises CheckpointError for damaged files."""
    files = [open_weight_file(path) for path in find_weight_files(folder, MODEL_FILES)]
    found = HeadTensors(folder, files, outline=True)
    return found.has_prefix and bool(found.matching(REFERENCE.blocks))


def _block_heads(names: BlockNames, found: HeadTensors, config: dict[str, Any]) -> BlockHeads:
    # What any name counts must be there whole: a lost tensor is no smaller checkpoint.
    blocks, ends = found.matching(names.blocks), found.matching(names.lm_heads)
    heads = range(1 + max(head for head, *_ in (*blocks, *ends)))
    layers = range(max([1 + layer for _, layer in blocks] + [at for _, *after in ends for at in after]))
    hidden_size = found.one(names.weight(0, 0), None, None).shape[1]
    # One stray name of a far head and layer asks for a hundred million of them.
    found.check_there(names.weight(head, layer) for layer in layers for head in heads)
    each = [(head, layer) for layer in layers for head in heads]
    weight = found.stack([names.weight(*block) for block in each], hidden_size, hidden_size)
    weight = weight.view(len(layers), len(heads), hidden_size, hidden_size)
    if any(names.bias(*block) in found for block in blocks):
        bias = found.stack([names.bias(*block) for block in each], hidden_size).view(weight.shape[:-1])
    else:
        bias = weight.new_zeros(weight.shape[:-1])  # vLLM's medusa_fc_bias is false then
    vocabulary = found.vocabulary()
    lm_heads = None
    lm_head_names = _lm_head_names(names, found, config, heads, len(layers))
    if lm_head_names:
        lm_heads = _narrowed(found.stack(lm_head_names, None, hidden_size), vocabulary, found.place)
    return BlockHeads(weight, bias[:, :, None], lm_heads, vocabulary, config)


def _lm_head_names(
    names: BlockNames, found: HeadTensors, config: dict[str, Any], heads: range, num_layers: int
) -> list[str]:
    """One for each head, one for all of them, or none, where they share the base's."""
    each = [names.lm_head(head, num_layers) for head in heads]
    present = [name for name in each if name in found]
    if not present:
        return [names.one_lm_head] if names.one_lm_head and names.one_lm_head in found else []
    # vLLM reads an original_lm_head under either name.
    return each[:1] if present == each[:1] and config.get("original_lm_head") else each


def _narrowed(lm_heads: torch.Tensor, vocabulary: torch.Tensor | None, place: Path) -> torch.Tensor:
    """LM heads (K, V' or more, D) -> (K, V', D): a file may hold rows for tokens that its map leaves out."""
    num_rows = lm_heads.shape[1]
    if vocabulary is None or num_rows == len(vocabulary):
        return lm_heads
    if num_rows < len(vocabulary) or num_rows <= int(vocabulary.max()):
        raise CheckpointError(
            f"{place} has LM heads of {num_rows} tokens, which its {TOKEN_MAP} doesn't fit; "
            "fetch or train the heads again."
        )
    return lm_heads[:, vocabulary]


def _mlp_heads(found: HeadTensors, config: dict[str, Any]) -> MlpHeads:
    heads = range(1 + max(head for (head,) in found.matching(_MLP)))
    width, hidden_size = found.one("0.mlp.up.weight", None, None).shape
    return MlpHeads(
        found.stack([f"{head}.mlp.up.weight" for head in heads], width, hidden_size),
        found.stack([f"{head}.mlp.up.bias" for head in heads], width)[:, None],
        found.stack([f"{head}.mlp.down.weight" for head in heads], hidden_size, width),
        found.vocabulary(),
        config,
    )


def _path_heads(found: HeadTensors, config: dict[str, Any]) -> PathHeads:
    depth = found.one("path.depth", None, None)
    hidden_size = depth.shape[1]
    layers = []
    for layer in range(1 + max(layer for (layer,) in found.matching(_PATH))):
        down = found.one(f"path.{layer}.down.weight", hidden_size, None)
        num_inputs = hidden_size if layer else 2 * hidden_size
        gate_up = found.one(f"path.{layer}.gate_up.weight", 2 * down.shape[1], num_inputs)
        layers.append(GatedLayer(gate_up, down))
    return PathHeads(layers, depth, found.vocabulary(), config)


_KINDS: Sequence[tuple[re.Pattern[str], Callable[[HeadTensors, dict[str, Any]], MedusaHeads]]] = (
    (_PATH, _path_heads),
    (_MLP, _mlp_heads),
    (REFERENCE.blocks, partial(_block_heads, REFERENCE)),
    (VLLM.blocks, partial(_block_heads, VLLM)),
)
