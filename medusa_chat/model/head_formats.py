"""Heads in the forms that other programs read. All hold the paper's residual blocks and nothing else.

medusa  The reference code: its reader wants medusa_lm_head.pt, its training script writes .safetensors.
tgi     text-generation-inference: .safetensors as above. It reads heads of one block without LM heads of
        their own, and of any number with them.
vllm    vLLM: model.safetensors with other names and always an LM head, which may be of fewer tokens.

head_files.py reads all three.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from medusa_chat.errors import UnsupportedModel, UsageError
from medusa_chat.files import write_whole, writing
from medusa_chat.model.base import BaseModel
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.block_names import VLLM
from medusa_chat.model.heads import CONFIG_FILE, PICKLE_FILE, TOKEN_MAP, WEIGHTS_FILE, MedusaHeads
from medusa_chat.records import HeadFormat

VLLM_WEIGHTS_FILE = "model.safetensors"
# What other programs have no use for, but medusa-chat has when it reads the heads again.
_KEPT = ("base_fingerprint", "path_probability")


@dataclass(frozen=True, slots=True)
class Export:
    """Heads as a format has them. remarks: sentences on what is not as it was."""

    files: tuple[str, ...]
    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]
    remarks: tuple[str, ...] = ()

    def save(self, folder: Path) -> None:
        """Writes all or nothing into `folder`. Raises CheckpointError on a full disk and such, UsageError if
        the folder holds anything.
        """
        check_vacant(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        # Each in a memory of its own, as safetensors wants it.
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in self.tensors.items()}
        try:
            for name in self.files:
                write_whole(folder / name, _serialized(name, tensors))
            write_whole(folder / CONFIG_FILE, (json.dumps(self.config, indent=1) + "\n").encode())
        except BaseException:
            for name in self.files:
                (folder / name).unlink(missing_ok=True)
            raise


def check_vacant(folder: Path) -> None:
    """Raises UsageError unless `folder` is empty or yet to be made."""
    with writing(folder):
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file; choose a folder for the heads.")
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(
                f"{folder} is not empty; choose another folder for the heads, or empty it first."
            )


def check_exportable(heads: MedusaHeads, form: HeadFormat) -> BlockHeads:
    """The same heads. Raises UnsupportedModel, saying what to do, if the format has no place for them."""
    if not isinstance(heads, BlockHeads):
        raise UnsupportedModel(
            f"Heads of the kind {heads.kind} can't be exported, for {form} knows only the paper's residual "
            "blocks; train such heads with `medusa-chat train MODEL --head-kind block`."
        )
    if form != "vllm" and heads.lm_heads is not None and heads.vocabulary is not None:
        raise UnsupportedModel(
            f"These heads have LM heads of their own over only {len(heads.vocabulary):,} tokens, which "
            f"{form} can't hold; export them with --format vllm."
        )
    return heads


def export_heads(heads: BlockHeads, base: BaseModel, base_name: str, form: HeadFormat) -> Export:
    """What check_exportable let pass, for the base that it fits."""
    export = {"medusa": _for_medusa, "tgi": _for_tgi, "vllm": _for_vllm}[form](heads, base)
    config = {**export.config, "base_model_name_or_path": base_name}
    config |= {key: heads.config[key] for key in _KEPT if key in heads.config}
    remarks = list(export.remarks)
    if heads.vocabulary is not None and TOKEN_MAP not in export.tensors:
        remarks.append(
            f"{form} has no token map: these heads guess among all {base.vocab_size:,} tokens there, no "
            f"longer among {len(heads.vocabulary):,}."
        )
    if heads.adapter is not None:
        remarks.append(
            "These heads were trained together with an adapter: serve the base model with it, or they guess "
            "less well."
        )
    return replace(export, config=config, remarks=tuple(remarks))


def _for_medusa(heads: BlockHeads, base: BaseModel) -> Export:
    remarks = []
    if heads.lm_heads is None:
        remarks.append(
            "Of the reference code only medusa_model_legacy.py lets heads share the base's LM head."
        )
    if heads.num_layers > 1:
        remarks.append(
            f"The reference code runs each head's last block {heads.num_layers} times in place of its "
            f"{heads.num_layers} blocks; other readers of this format do better."
        )
    files = (PICKLE_FILE, WEIGHTS_FILE)
    return Export(files, heads.tensors(), _reference_config(heads), tuple(remarks))


def _for_tgi(heads: BlockHeads, base: BaseModel) -> Export:
    if heads.num_layers == 1 or heads.lm_heads is not None:
        return Export((WEIGHTS_FILE,), heads.tensors(), _reference_config(heads))
    lm_heads = base.lm_head_weight.to(heads.weight).expand(heads.num_heads, -1, -1)
    own = BlockHeads(heads.weight, heads.bias, lm_heads)
    remark = "tgi reads several blocks only before LM heads of their own: each head got a copy of the base's."
    return Export((WEIGHTS_FILE,), own.tensors(), _reference_config(own), (remark,))


def _reference_config(heads: BlockHeads) -> dict[str, Any]:
    config = {"medusa_num_heads": heads.num_heads, "medusa_num_layers": heads.num_layers}
    return config if heads.lm_heads is not None else {**config, "version": "2"}


def _for_vllm(heads: BlockHeads, base: BaseModel) -> Export:
    heads = _without_whole_map(heads, base)
    tensors = heads.tensors(VLLM)
    if heads.lm_heads is None:
        weight = base.lm_head_weight  # (V, D)
        rows = weight if heads.vocabulary is None else weight[heads.vocabulary]
        tensors["lm_head.weight"] = rows.to(heads.weight)
    if heads.vocabulary is not None:
        tensors[TOKEN_MAP] = heads.vocabulary
    config = {
        "architectures": ["MedusaModel"],
        "model_type": "medusa",
        "hidden_size": heads.hidden_size,
        "num_heads": heads.num_heads,
        "num_hidden_layers": heads.num_layers,
        "vocab_size": base.vocab_size,
        "truncated_vocab_size": base.vocab_size if heads.vocabulary is None else len(heads.vocabulary),
        "medusa_fc_bias": True,
        "original_lm_head": heads.lm_heads is None,
    }
    return Export((VLLM_WEIGHTS_FILE,), tensors, config)


def _without_whole_map(heads: BlockHeads, base: BaseModel) -> BlockHeads:
    """vLLM overlooks a token map that lists every token: put them in their own order then."""
    if heads.vocabulary is None or len(heads.vocabulary) < base.vocab_size:
        return heads
    lm_heads = None if heads.lm_heads is None else heads.lm_heads[:, heads.vocabulary.argsort()]
    return BlockHeads(heads.weight, heads.bias, lm_heads)


def _serialized(name: str, tensors: dict[str, torch.Tensor]) -> bytes | memoryview:
    if not name.endswith(".pt"):
        return safetensors.torch.save(tensors)  # type: ignore[no-any-return]
    stream = io.BytesIO()
    torch.save(tensors, stream)
    return stream.getbuffer()
