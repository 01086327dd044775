"""Training from end to end: dialogues, heads, their accuracy, and a folder the engine can load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medusa_chat.engine.opening import OpenModel
from medusa_chat.errors import MedusaError, UsageError
from medusa_chat.files import writing
from medusa_chat.model.adapter import ADAPTER_FOLDER, Adapter, merge_adapter
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.memory import free_bytes
from medusa_chat.training.accuracy import HeadAccuracy, measure_accuracy
from medusa_chat.training.cleaning import Cleaning, clean
from medusa_chat.training.dialogues import Dialogues, DialogueWriter
from medusa_chat.training.fresh import check_shares_sizes, draft_vocabulary, fresh_heads
from medusa_chat.training.loop import Batches, TrainingReport
from medusa_chat.training.medusa1 import medusa1_loop
from medusa_chat.training.medusa2 import Medusa2, medusa2_loop
from medusa_chat.training.memory import (
    check_fits,
    medusa1_need,
    medusa2_needs,
    memory_explained,
    written_at_once,
)
from medusa_chat.training.quality import Quality, compare, read
from medusa_chat.training.recipe import AdapterRecipe, Recipe
from medusa_chat.training.shards import read_shards, split, write_shards
from medusa_chat.training.targets import num_taught
from medusa_chat.training.workers import ALONE, Workers


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


@dataclass(frozen=True, slots=True)
class Training:
    """One training: dialogues are written into work/data, heads learn from them, are measured on held-out
    ones and saved into `out`. With an adapter_recipe an adapter then learns with them (Medusa-2): it is saved
    there too, and merged into the model in memory. prompts: users' first messages, if the model is not to
    write its own.
    """

    model: OpenModel
    recipe: Recipe
    work: Path
    out: Path
    listener: Listener
    prompts: Sequence[str] = ()
    adapter_recipe: AdapterRecipe | None = None
    workers: Workers = ALONE

    def run(self) -> Trained | None:
        """Of several workers only the first measures and saves; the others get None.

        Interrupted at any moment, it goes on from where it was when the same one runs again. Raises a
        MedusaError that says what to do: too little data, memory or disk, other settings than before.
        """
        self._check_sizes()
        with writing(self.out):  # now rather than after hours
            self.out.mkdir(parents=True, exist_ok=True)
        with memory_explained():
            self._check_memory()
            training, held_out, cleaning = self._dialogues()
            heads, quality = self._learn(training, held_out)
            if not self.workers.is_first:
                return None
            heads = heads.to(self.model.base.dtype).requires_grad_(False)
            accuracy = measure_accuracy(self.model.base, heads, held_out)
        heads.config = self._card(accuracy, quality, training)
        with writing(self.out):
            heads.save(self.out)
        return Trained(heads, cleaning, accuracy, quality)

    def _check_sizes(self) -> None:
        base, length = self.model.base, self.recipe.sequence_length
        if length > base.context_length:
            raise UsageError(
                f"Dialogues of {length:,} tokens are longer than the model's context of "
                f"{base.context_length:,}; use a smaller --sequence-length."
            )
        check_shares_sizes(base)

    def _check_memory(self) -> None:
        """Raises OutOfMemory, saying what would fit, if it would run out of memory sooner or later."""
        base, length = self.model.base, self.recipe.sequence_length
        heads = fresh_heads(base, self.recipe)
        needs = [medusa1_need(base, heads)]
        if self.adapter_recipe is not None:
            needs.append(medusa2_needs(base, heads, self.adapter_recipe))
        del heads
        for need in needs:
            check_fits(need, length, free_bytes(base.device), quantised=self.model.quantization == "4bit")

    def _dialogues(self) -> tuple[Dialogues, Dialogues, Cleaning]:
        """Those to train on and those held out; both hold answers, the latter greedy ones."""
        base, recipe, folder = self.model.base, self.recipe, self.work / "data"
        files = write_shards(
            folder,
            DialogueWriter(base, self.model.tokenizer, recipe, self.prompts),
            recipe,
            written_at_once(base, recipe.sequence_length),
            lambda count: self.listener.on_dialogues(count, recipe.num_sequences),
            self.workers,
        )
        dialogues, cleaning = clean(read_shards(files))
        training, held_out = split(dialogues, recipe.held_out)
        _check_teach(training, held_out, recipe.num_heads, folder)
        return training, held_out, cleaning

    def _learn(self, training: Dialogues, held_out: Dialogues) -> tuple[MedusaHeads, Quality | None]:
        """The heads, and with an adapter what became of the model."""
        base, recipe, on_report = self.model.base, self.recipe, self.listener.on_report
        vocabulary = draft_vocabulary(training, recipe.vocabulary_share, base.vocab_size)
        heads = fresh_heads(base, recipe, vocabulary)
        medusa1_loop(base, heads, training, recipe, self.work, self.workers).run(on_report)
        if self.adapter_recipe is None:
            return heads, None
        learner = Medusa2(base, heads, training, recipe, self.adapter_recipe)
        medusa2_loop(learner, self.work, self.workers).run(on_report)
        return heads, self._merge(learner.adapter, held_out) if self.workers.is_first else None

    def _merge(self, adapter: Adapter, held_out: Dialogues) -> Quality:
        """Saves the adapter and puts it into the model's weights: what is judged is the model that will
        answer, rounded and quantised.
        """
        base, folder = self.model.base, self.out / ADAPTER_FOLDER
        digest = adapter.save(folder, self.model.spec.base)
        adapter.take_off()
        before = read(base, held_out)
        merge_adapter(base, folder, digest)
        return compare(before, read(base, held_out), held_out)

    def _card(self, accuracy: HeadAccuracy, quality: Quality | None, training: Dialogues) -> dict[str, Any]:
        """What the heads' config.json says of them."""
        base, recipe = self.model.base, self.recipe
        batches = Batches(len(training.ids), recipe.batch_size, recipe.epochs, recipe.seed)
        card = {
            "base_model_name_or_path": self.model.spec.base,
            "base_fingerprint": base.fingerprint,
            "recipe": asdict(recipe),
            "trained_tokens": int(training.answer.sum()) * recipe.epochs,
            "steps": batches.num_steps,
            "top_accuracy": {str(count): [round(p, 4) for p in row] for count, row in accuracy.top.items()},
            "path_probability": {
                " ".join(map(str, path)): round(p, 5) for path, p in accuracy.path_probability.items()
            },
        }
        if self.adapter_recipe is not None and quality is not None:
            card |= {
                "adapter": base.adapter,
                "adapter_recipe": asdict(self.adapter_recipe),
                "quality": quality.as_dict(),
            }
        return card


def _check_teach(training: Dialogues, held_out: Dialogues, num_heads: int, folder: Path) -> None:
    """Raises MedusaError if these teach no head, UsageError if they don't teach so many."""
    greedy = Dialogues(*(part[held_out.greedy] for part in (held_out.ids, held_out.answer, held_out.greedy)))
    taught = min(num_taught(part, num_heads) for part in (training, greedy))
    if taught == 0:
        raise MedusaError(
            f"The dialogues in {folder} hold too few answers to learn from; remove that folder and run train "
            "with more --tokens or a longer --sequence-length, or choose a chat model."
        )
    if taught < num_heads:
        raise UsageError(
            f"The answers in {folder} are long enough for {taught} heads, not for {num_heads}; use "
            f"--heads {taught}, or remove that folder and use more --tokens or a longer --sequence-length."
        )
