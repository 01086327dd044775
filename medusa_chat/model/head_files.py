"""Reading heads from disk: kind, counts and shapes come from the tensors, not from config.json.

Block heads may come from other programs too (head_formats.py): the reference code's training script, TGI and
vLLM.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from medusa_chat.errors import CheckpointError
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.block_names import REFERENCE, VLLM, BlockNames
from medusa_chat.model.heads import CONFIG_FILE, TOKEN_MAP, WEIGHTS_FILE, MedusaHeads
from medusa_chat.model.mlp_heads import MlpHeads
from medusa_chat.model.path_heads import GatedLayer, PathHeads

VLLM_WEIGHTS_FILE = "model.safetensors"
_VLLM_PREFIX = "medusa_heads."  # some files have it before every name
_MLP = re.compile(r"(\d+)\.mlp\.up\.weight")
_PATH = re.compile(r"path\.(\d+)\.gate_up\.weight")


def load_heads(folder: Path) -> MedusaHeads:
    """Heads of any kind. Raises CheckpointError naming the file and what is wrong with it."""
    file = _weights_file(folder)
    try:
        tensors = safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); fetch or train the heads again.") from None
    found = HeadTensors(file, {name.removeprefix(_VLLM_PREFIX): value for name, value in tensors.items()})
    for names, build in _KINDS:
        if found.matching(names):
            return build(found, _read_config(folder / CONFIG_FILE))
    raise CheckpointError(f"{file} holds no Medusa heads: no tensor is named like 0.0.linear.weight.")


def _weights_file(folder: Path) -> Path:
    for name in (WEIGHTS_FILE, VLLM_WEIGHTS_FILE):
        if (folder / name).exists():
            return folder / name
    raise CheckpointError(
        f"There are no Medusa heads in {folder}: it has no {WEIGHTS_FILE} and no {VLLM_WEIGHTS_FILE}."
    )


class HeadTensors:
    """The tensors of one file, handed out checked."""

    def __init__(self, file: Path, tensors: dict[str, torch.Tensor]) -> None:
        self.file = file
        self._tensors = tensors

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def matching(self, names: re.Pattern[str]) -> list[tuple[int, ...]]:
        """The numbers in all names of that form."""
        matches = filter(None, map(names.fullmatch, self._tensors))
        return [tuple(map(int, match.groups())) for match in matches]

    def one(self, name: str, *shape: int | None) -> torch.Tensor:
        """The tensor of that name and shape; None stands for any size."""
        return self.stack([name], *shape)[0]

    def stack(self, names: Sequence[str], *shape: int | None) -> torch.Tensor:
        """The tensors of these names, of one shape, one behind the other."""
        missing = [name for name in names if name not in self._tensors]
        if missing:
            raise CheckpointError(
                f"{self.file} lacks the tensor {missing[0]}; fetch or train the heads again."
            )
        shapes = {tuple(self._tensors[name].shape) for name in names}
        if len(shapes) > 1:
            raise CheckpointError(f"{self.file} has heads of different shapes in {names[0]} and its like.")
        found = shapes.pop()
        if len(found) != len(shape) or any(w not in (None, f) for w, f in zip(shape, found, strict=True)):
            raise CheckpointError(
                f"{self.file} has a wrong shape in {names[0]}, {list(found)}; fetch or train the heads again."
            )
        stacked = torch.stack([self._tensors[name] for name in names])
        if not torch.isfinite(stacked).all():
            raise CheckpointError(f"{self.file} holds values that are not numbers in {names[0]} or its like.")
        return stacked

    def vocabulary(self) -> torch.Tensor | None:
        """(V',) int64: the tokens that these heads guess among, if not all."""
        if TOKEN_MAP not in self._tensors:
            return None
        ids = self.one(TOKEN_MAP, None).long()
        if ids.numel() == 0 or int(ids.min()) < 0 or len(set(ids.tolist())) != len(ids):
            raise CheckpointError(f"{self.file} has a {TOKEN_MAP} that lists no token, or one twice.")
        return ids


def _block_heads(names: BlockNames, found: HeadTensors, config: dict[str, Any]) -> BlockHeads:
    blocks = found.matching(names.pattern)
    heads = range(1 + max(head for head, _ in blocks))
    layers = range(1 + max(layer for _, layer in blocks))
    hidden_size = found.one(names.weight(0, 0), None, None).shape[1]
    weight = torch.stack(
        [
            found.stack([names.weight(head, layer) for head in heads], hidden_size, hidden_size)
            for layer in layers
        ]
    )
    if any(names.bias(*block) in found for block in blocks):
        bias = torch.stack(
            [found.stack([names.bias(head, layer) for head in heads], hidden_size) for layer in layers]
        )
    else:
        bias = weight.new_zeros(weight.shape[:-1])  # vLLM's medusa_fc_bias is false then
    vocabulary = found.vocabulary()
    lm_heads = None
    # An original_lm_head is the base's own: vLLM's files carry a copy.
    if names.lm_head(0, len(layers)) in found and not config.get("original_lm_head"):
        lm_heads = found.stack([names.lm_head(head, len(layers)) for head in heads], None, hidden_size)
        lm_heads = _narrowed(found, lm_heads, vocabulary)
    return BlockHeads(weight, bias[:, :, None], lm_heads, vocabulary, config)


def _narrowed(found: HeadTensors, lm_heads: torch.Tensor, vocabulary: torch.Tensor | None) -> torch.Tensor:
    """LM heads (K, V' or more, D) -> (K, V', D): a file may hold rows for tokens that its map leaves out."""
    num_rows = lm_heads.shape[1]
    if vocabulary is None or num_rows == len(vocabulary):
        return lm_heads
    if num_rows < len(vocabulary) or num_rows <= int(vocabulary.max()):
        raise CheckpointError(
            f"{found.file} has LM heads of {num_rows} tokens, which its {TOKEN_MAP} doesn't fit; "
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
    (REFERENCE.pattern, partial(_block_heads, REFERENCE)),
    (VLLM.pattern, partial(_block_heads, VLLM)),
)


def _read_config(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{file} is not valid JSON ({error}); fetch or train the heads again."
        ) from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} must hold a JSON object; fetch or train the heads again.")
    return config
