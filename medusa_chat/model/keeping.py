"""Quantised weights, kept when they were made and read from there at later loads, with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from medusa_chat.checkpoints.quantised import QuantisedCopy, discard, make_copy
from medusa_chat.checkpoints.soundness import find_damage
from medusa_chat.errors import CheckpointError, UnsupportedModel
from medusa_chat.records import LoadProgress

# Of a shard: all of it is in the host's memory while it is written.
_SHARD_SIZE = "500MB"

OnProgress = Callable[[LoadProgress], None]


def read_kept(copy: QuantisedCopy, read: Callable[[Path], Any], on_progress: OnProgress) -> Any | None:
    """The model from its copy; None if there is none. A damaged one is removed, and the user told.

    read: gives the model in a folder; raises CheckpointError or UnsupportedModel if it can't be loaded.
    """
    if not copy.folder.is_dir():
        return None
    damage = find_damage(copy.folder)
    if damage is None:
        try:
            return read(copy.folder)
        except (CheckpointError, UnsupportedModel) as error:
            damage = str(error).rstrip(".")
    on_progress(LoadProgress(f"Quantising anew, as the {copy.kind} weights kept are damaged: {damage}"))
    discard(copy.folder)
    return None


def keep(causal_lm: Any, copy: QuantisedCopy, on_progress: OnProgress) -> None:
    """Before the model has run, and before anything takes its weights over or merges into them."""
    on_progress(LoadProgress(f"Keeping the {copy.kind} weights for next time"))
    num_bytes = sum(tensor.nbytes for tensor in causal_lm.state_dict().values())
    obstacle = make_copy(copy, num_bytes, lambda folder: _save(causal_lm, folder))
    if obstacle is not None:
        on_progress(LoadProgress(f"The {copy.kind} weights are not kept for next time: {obstacle}"))


def _save(causal_lm: Any, folder: Path) -> None:
    # Transformers writes no generation config that it finds contradictory, though it reads such, and many
    # models have one. It is read from the base.
    generation_config, causal_lm.generation_config = causal_lm.generation_config, GenerationConfig()
    try:
        causal_lm.save_pretrained(folder, max_shard_size=_SHARD_SIZE)
    finally:
        causal_lm.generation_config = generation_config
