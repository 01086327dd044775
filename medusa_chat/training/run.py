"""Training from end to end: dialogues, heads, their accuracy, and a folder the engine can load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from medusa_chat.engine.opening import OpenModel
from medusa_chat.errors import MedusaError, OutOfMemory, UsageError
from medusa_chat.files import writing
from medusa_chat.model.adapter import ADAPTER_FOLDER, Adapter, merge_adapter
from medusa_chat.model.base import BaseModel
from medusa_chat.training.accuracy import HeadAccuracy, measure_accuracy
from medusa_chat.training.cleaning import Cleaning, clean
from medusa_chat.training.dialogues import Dialogues, DialogueWriter
from medusa_chat.training.fresh import fresh_heads
from medusa_chat.training.loop import TrainingReport
from medusa_chat.training.medusa1 import medusa1_loop
from medusa_chat.training.medusa2 import Medusa2, medusa2_loop
from medusa_chat.training.quality import Quality, compare, read
from medusa_chat.training.recipe import AdapterRecipe, Recipe
from medusa_chat.training.shards import read_shards, split, write_shards
from medusa_chat.training.targets import has_targets

_SEQUENCES_AT_ONCE_GPU = 1536
_SEQUENCES_AT_ONCE_CPU = 16


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told how it goes. on_dialogues: number written, of how many."""

    on_dialogues: Callable[[int, int], None]
    on_report: Callable[[TrainingReport], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """cleaning: what of the dialogues was left out. accuracy: of the heads, on the model that they will be
    used with. quality: of the adapted one, if the model was adapted.
    """

    cleaning: Cleaning
    accuracy: HeadAccuracy
    quality: Quality | None


def train_heads(
    model: OpenModel,
    recipe: Recipe,
    work: Path,
    out: Path,
    listener: Listener,
    prompts: Sequence[str] = (),
    adapter_recipe: AdapterRecipe | None = None,
) -> Trained:
    """Writes dialogues into work/data, trains, measures on held-out ones and saves the heads into `out`. With
    an adapter_recipe an adapter then learns with them (Medusa-2): it is saved there too, and merged into the
    model in memory.

    Interrupted at any moment, it goes on from where it was when called again with the same recipe. Raises a
    MedusaError that says what to do: too little data, memory or disk, other settings than before.
    """
    if recipe.sequence_length > model.base.context_length:
        raise UsageError(
            f"Dialogues of {recipe.sequence_length:,} tokens are longer than the model's context of "
            f"{model.base.context_length:,}; use a smaller --sequence-length."
        )
    with writing(out):  # now rather than after hours
        out.mkdir(parents=True, exist_ok=True)
    with _memory_explained():
        return _train(model, recipe, work, out, listener, prompts, adapter_recipe)


def _train(
    model: OpenModel,
    recipe: Recipe,
    work: Path,
    out: Path,
    listener: Listener,
    prompts: Sequence[str],
    adapter_recipe: AdapterRecipe | None,
) -> Trained:
    base = model.base
    training, held_out, cleaning = _write_dialogues(model, recipe, work / "data", listener, prompts)
    heads = fresh_heads(base, training, recipe)
    loop = medusa1_loop(base, heads, training, recipe, work)
    loop.run(listener.on_report)
    quality = None
    if adapter_recipe is not None:
        learner = Medusa2(base, heads, training, recipe, adapter_recipe)
        medusa2_loop(learner, work).run(listener.on_report)
        quality = _merge(model, learner.adapter, out / ADAPTER_FOLDER, held_out)
    heads = heads.to(base.dtype).requires_grad_(False)
    accuracy = measure_accuracy(base, heads, held_out)
    heads.config = {
        "base_model_name_or_path": model.spec.base,
        "base_fingerprint": base.fingerprint,
        "recipe": asdict(recipe),
        "trained_tokens": int(training.answer.sum()) * recipe.epochs,
        "steps": loop.num_steps,
        "top_accuracy": {str(count): [round(p, 4) for p in row] for count, row in accuracy.top.items()},
        "path_probability": {
            " ".join(map(str, path)): round(p, 5) for path, p in accuracy.path_probability.items()
        },
    }
    if adapter_recipe is not None and quality is not None:
        heads.config |= {
            "adapter": base.adapter,
            "adapter_recipe": asdict(adapter_recipe),
            "quality": quality.as_dict(),
        }
    with writing(out):
        heads.save(out)
    return Trained(cleaning, accuracy, quality)


def _merge(model: OpenModel, adapter: Adapter, folder: Path, held_out: Dialogues) -> Quality:
    """Saves the adapter and puts it into the model's weights: what is judged is the model that will answer,
    rounded and quantised.
    """
    base = model.base
    digest = adapter.save(folder, model.spec.base)
    adapter.take_off()
    before = read(base, held_out)
    merge_adapter(base, folder, digest)
    return compare(before, read(base, held_out), held_out)


@contextmanager
def _memory_explained() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has an exception of its own for a full GPU, and none for a full machine.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate" not in str(error):
            raise
        raise OutOfMemory(
            "Training ran out of memory; run it again with a smaller --batch-size, "
            "a smaller --sequence-length or --quant 4bit."
        ) from error


def _write_dialogues(
    model: OpenModel, recipe: Recipe, folder: Path, listener: Listener, prompts: Sequence[str]
) -> tuple[Dialogues, Dialogues, Cleaning]:
    """Those to train on and those held out; both hold answers, the latter greedy ones."""
    writer = DialogueWriter(model.base, model.tokenizer, recipe, prompts)
    files = write_shards(
        folder,
        writer,
        recipe,
        sequences_at_once(model.base, recipe.sequence_length),
        lambda count: listener.on_dialogues(count, recipe.num_sequences),
    )
    dialogues, cleaning = clean(read_shards(files))
    training, held_out = split(dialogues, recipe.held_out)
    greedy = Dialogues(*(part[held_out.greedy] for part in (held_out.ids, held_out.answer, held_out.greedy)))
    if not (has_targets(training, recipe.num_heads) and has_targets(greedy, recipe.num_heads)):
        raise MedusaError(
            f"The dialogues in {folder} hold too few answers to learn from; remove that folder and run train "
            "with more --tokens or a longer --sequence-length, or choose a chat model."
        )
    return training, held_out, cleaning


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
