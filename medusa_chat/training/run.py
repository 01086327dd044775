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
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.training.accuracy import HeadAccuracy, measure_accuracy
from medusa_chat.training.cleaning import Cleaning, clean
from medusa_chat.training.dialogues import Dialogues, DialogueWriter
from medusa_chat.training.fresh import check_shares_sizes, draft_vocabulary, fresh_heads
from medusa_chat.training.loop import TrainingReport
from medusa_chat.training.medusa1 import medusa1_loop
from medusa_chat.training.medusa2 import Medusa2, medusa2_loop
from medusa_chat.training.memory import check_fits, free_bytes, medusa1_need, medusa2_needs
from medusa_chat.training.quality import Quality, compare, read
from medusa_chat.training.recipe import AdapterRecipe, Recipe
from medusa_chat.training.shards import read_shards, split, write_shards
from medusa_chat.training.targets import num_taught
from medusa_chat.training.workers import ALONE, Workers

_SEQUENCES_AT_ONCE_GPU = 4096  # from 2048 on a GPU is busy all the time (training/dialogues.py)
_SEQUENCES_AT_ONCE_CPU = 16
_LOGITS_COPIES = 4  # float32 ones that sampling works on


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told how it goes. on_dialogues: number written, of how many."""

    on_dialogues: Callable[[int, int], None]
    on_report: Callable[[TrainingReport], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """heads: in the model's dtype, as they are used. cleaning: what of the dialogues was left out. accuracy:
    of the heads, on the model that they will be used with. quality: of the adapted one, if it was adapted.
    """

    heads: MedusaHeads
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
    workers: Workers = ALONE,
) -> Trained | None:
    """Writes dialogues into work/data, trains, measures on held-out ones and saves the heads into `out`. With
    an adapter_recipe an adapter then learns with them (Medusa-2): it is saved there too, and merged into the
    model in memory. Of several workers only the first measures and saves; the others get None.

    Interrupted at any moment, it goes on from where it was when called again with the same recipe. Raises a
    MedusaError that says what to do: too little data, memory or disk, other settings than before.
    """
    if recipe.sequence_length > model.base.context_length:
        raise UsageError(
            f"Dialogues of {recipe.sequence_length:,} tokens are longer than the model's context of "
            f"{model.base.context_length:,}; use a smaller --sequence-length."
        )
    check_shares_sizes(model.base)
    with writing(out):  # now rather than after hours
        out.mkdir(parents=True, exist_ok=True)
    with _memory_explained():
        _check_memory(model, recipe, adapter_recipe)
        return _train(model, recipe, work, out, listener, prompts, adapter_recipe, workers)


def _check_memory(model: OpenModel, recipe: Recipe, adapter_recipe: AdapterRecipe | None) -> None:
    """Raises OutOfMemory, saying what would fit, if training would run out of memory sooner or later."""
    base = model.base
    heads = fresh_heads(base, recipe)
    needs = [medusa1_need(base, heads)]
    if adapter_recipe is not None:
        needs.append(medusa2_needs(base, heads, adapter_recipe))
    del heads
    for need in needs:
        check_fits(
            need, recipe.sequence_length, free_bytes(base.device), quantised=model.quantization == "4bit"
        )


def _train(
    model: OpenModel,
    recipe: Recipe,
    work: Path,
    out: Path,
    listener: Listener,
    prompts: Sequence[str],
    adapter_recipe: AdapterRecipe | None,
    workers: Workers,
) -> Trained | None:
    base = model.base
    training, held_out, cleaning = _write_dialogues(model, recipe, work / "data", listener, prompts, workers)
    heads = fresh_heads(base, recipe, draft_vocabulary(training, recipe.vocabulary_share, base.vocab_size))
    loop = medusa1_loop(base, heads, training, recipe, work, workers)
    loop.run(listener.on_report)
    num_steps = loop.num_steps
    del loop  # and the optimiser's moments with it
    quality = None
    if adapter_recipe is not None:
        learner = Medusa2(base, heads, training, recipe, adapter_recipe)
        medusa2_loop(learner, work, workers).run(listener.on_report)
        if workers.is_first:
            quality = _merge(model, learner.adapter, out / ADAPTER_FOLDER, held_out)
    if not workers.is_first:
        return None
    heads = heads.to(base.dtype).requires_grad_(False)
    accuracy = measure_accuracy(base, heads, held_out)
    heads.config = {
        "base_model_name_or_path": model.spec.base,
        "base_fingerprint": base.fingerprint,
        "recipe": asdict(recipe),
        "trained_tokens": int(training.answer.sum()) * recipe.epochs,
        "steps": num_steps,
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
    return Trained(heads, cleaning, accuracy, quality)


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
    model: OpenModel,
    recipe: Recipe,
    folder: Path,
    listener: Listener,
    prompts: Sequence[str],
    workers: Workers,
) -> tuple[Dialogues, Dialogues, Cleaning]:
    """Those to train on and those held out; both hold answers, the latter greedy ones."""
    writer = DialogueWriter(model.base, model.tokenizer, recipe, prompts)
    files = write_shards(
        folder,
        writer,
        recipe,
        sequences_at_once(model.base, recipe.sequence_length),
        lambda count: listener.on_dialogues(count, recipe.num_sequences),
        workers,
    )
    dialogues, cleaning = clean(read_shards(files))
    training, held_out = split(dialogues, recipe.held_out)
    greedy = Dialogues(*(part[held_out.greedy] for part in (held_out.ids, held_out.answer, held_out.greedy)))
    deepest = min(num_taught(part, recipe.num_heads) for part in (training, greedy))
    if deepest == 0:
        raise MedusaError(
            f"The dialogues in {folder} hold too few answers to learn from; remove that folder and run train "
            "with more --tokens or a longer --sequence-length, or choose a chat model."
        )
    if deepest < recipe.num_heads:
        raise UsageError(
            f"The answers in {folder} are long enough for {deepest} heads, not for {recipe.num_heads}; use "
            f"--heads {deepest}, or remove that folder and use more --tokens or a longer --sequence-length."
        )
    return training, held_out, cleaning


def sequences_at_once(base: BaseModel, sequence_length: int) -> int:
    """How many dialogues are written side by side: what fits in memory, KV cache included. Raises OutOfMemory
    if not even one does.
    """
    if base.device.type != "cuda":
        return _SEQUENCES_AT_ONCE_CPU
    config = base.config
    num_kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache_bytes = (
        2 * config.num_hidden_layers * num_kv_heads * head_dim * sequence_length * base.dtype.itemsize
    )
    logits_bytes = 4 * base.vocab_size * _LOGITS_COPIES
    free = free_bytes(base.device)
    fitting: int = int(0.9 * free) // (cache_bytes + logits_bytes)
    if fitting == 0:
        raise OutOfMemory(
            f"Writing one dialogue of {sequence_length:,} tokens takes "
            f"{(cache_bytes + logits_bytes) / 2**30:.1f} GB beside the model, and {free / 2**30:.1f} GB are "
            "free; use a smaller --sequence-length or --quant 4bit."
        )
    return min(_SEQUENCES_AT_ONCE_GPU, fitting)
