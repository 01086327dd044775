"""How heads lie on disk: which program's layout it is, and where its config.json contradicts the tensors.

Letters are this project's. A, C and E share their names of tensors, so the files around them tell them apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.block_names import REFERENCE, VLLM
from medusa_chat.model.head_tensors import HeadTensors
from medusa_chat.model.heads import MedusaHeads

Layout = Literal["A", "B", "C", "D", "E", "medusa-chat"]
LAYOUTS: dict[str, str] = {
    "A": "the reference code, v0.1: LM heads of their own",
    "B": "the reference code, v1.0 (Medusa-2): in the base model's own files",
    "C": "the reference code, version 2: the base's LM head",
    "D": "vLLM",
    "E": "text-generation-inference, or A as safetensors",
    "medusa-chat": "medusa-chat train",
}


def layout_of(heads: MedusaHeads, found: HeadTensors) -> Layout:
    if "kind" in heads.config or not isinstance(heads, BlockHeads):
        return "medusa-chat"
    if not found.matching(REFERENCE.blocks):
        return "D"
    if found.has_prefix:
        return "B"
    if heads.config.get("version") == "2":
        return "C"
    if found.place.suffix == ".safetensors":
        return "E"
    return "A" if heads.lm_heads is not None else "C"


def contradictions(heads: MedusaHeads, found: HeadTensors, config_file: Path) -> tuple[str, ...]:
    """A sentence for each thing that config.json says otherwise than the tensors."""
    facts: dict[str, Any] = {
        "medusa_num_heads": heads.num_heads,
        "medusa_num_layers": heads.num_layers,
        "hidden_size": heads.hidden_size,
    }
    if heads.layout == "D":  # elsewhere some of these are a base model's
        facts |= _facts_of_vllm(heads, found)
    if heads.lm_head_size is not None:
        facts["version"] = "1"  # 2 would have no LM heads
    claims = {key: heads.config[key] for key in facts if key in heads.config}
    return tuple(
        f"{config_file} says {key} {claims[key]!r}, but by the tensors in {heads.source} it is "
        f"{facts[key]!r}, which is used."
        for key in claims
        if claims[key] != facts[key]
    )


def _facts_of_vllm(heads: MedusaHeads, found: HeadTensors) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "num_heads": heads.num_heads,
        "num_hidden_layers": heads.num_layers,
        "medusa_fc_bias": VLLM.bias(0, 0) in found,
    }
    guessed = heads.lm_head_size if heads.vocabulary is None else len(heads.vocabulary)
    return facts if guessed is None else {**facts, "truncated_vocab_size": guessed}
