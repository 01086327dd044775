"""Training from end to end: dialogues, heads, their accuracy, and a folder the engine can load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from medusa_chat.engine.opening import OpenModel
from medusa_chat.errors import MedusaError
from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.training.accuracy import HeadAccuracy, measure_accuracy
from medusa_chat.training.dialogues import Dialogues, DialogueWriter
from medusa_chat.training.medusa1 import Medusa1Trainer, TrainingReport
from medusa_chat.training.recipe import Recipe
from medusa_chat.training.shards import read_shards, split, write_shards

_SEQUENCES_AT_ONCE_GPU = 1536
_SEQUENCES_AT_ONCE_CPU = 16


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told how it goes. on_dialogues: number written, of how many."""

    on_dialogues: Callable[[int, int], None]
    on_report: Callable[[TrainingReport], None]


def train_heads(
    model: OpenModel,
    recipe: Recipe,
    work: Path,
    out: Path,
    listener: Listener,
    prompts: Sequence[str] = (),
) -> HeadAccuracy:
    """Writes dialogues into work/data, trains, measures on held-out ones and saves the heads into `out`.

    Interrupted at any moment, it goes on from where it was when called again with the same recipe.
    """
    base = model.base
    dialogues = _write_dialogues(model, recipe, work / "data", listener, prompts)
    training, held_out = split(dialogues, recipe.held_out)
    torch.manual_seed(recipe.seed)
    heads = MedusaHeads.fresh(recipe.num_heads, recipe.num_layers, base.hidden_size).to(base.device)
    trainer = Medusa1Trainer(base, heads, training, recipe, work)
    trainer.run(listener.on_report)
    heads = heads.to(base.dtype).requires_grad_(False)
    accuracy = measure_accuracy(base, heads, held_out)
    heads.config = {
        "base_model_name_or_path": model.spec.base,
        "base_fingerprint": base.fingerprint,
        "recipe": asdict(recipe),
        "trained_tokens": int(training.answer.sum()) * recipe.epochs,
        "steps": trainer.num_steps,
        "top_accuracy": {str(count): [round(p, 4) for p in row] for count, row in accuracy.top.items()},
        "path_probability": {
            " ".join(map(str, path)): round(p, 5) for path, p in accuracy.path_probability.items()
        },
    }
    heads.save(out)
    return accuracy


def _write_dialogues(
    model: OpenModel, recipe: Recipe, folder: Path, listener: Listener, prompts: Sequence[str]
) -> Dialogues:
    writer = DialogueWriter(model.base, model.tokenizer, recipe, prompts)
    files = write_shards(
        folder,
        writer,
        recipe,
        sequences_at_once(model.base, recipe.sequence_length),
        lambda count: listener.on_dialogues(count, recipe.num_sequences),
    )
    dialogues = read_shards(files)
    if not dialogues.answer.any():
        raise MedusaError(
            "The model wrote no answers, so it may not be a chat model; give --prompts or choose another."
        )
    return dialogues


def sequences_at_once(base: BaseModel, sequence_length: int) -> int:
    """How many dialogues are written side by side: what fits in memory, KV cache and its growth included."""
    if base.device.type != "cuda":
        return _SEQUENCES_AT_ONCE_CPU
    config = base.config
    num_kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache_bytes = (
        2 * config.num_hidden_layers * num_kv_heads * head_dim * sequence_length * base.dtype.itemsize
    )
    logits_bytes = 4 * base.vocab_size * 4
    free, _ = torch.cuda.mem_get_info(base.device)
    fitting: int = int(0.9 * free) // (2 * cache_bytes + logits_bytes)
    return max(8, min(_SEQUENCES_AT_ONCE_GPU, fitting))
