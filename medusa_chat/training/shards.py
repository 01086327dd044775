"""Self-written dialogues on disk: shards that are written whole or not at all, and never written twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from medusa_chat.errors import CheckpointError, UsageError
from medusa_chat.files import write_whole, writing
from medusa_chat.printable import printable
from medusa_chat.training.dialogues import Dialogues, DialogueWriter
from medusa_chat.training.recipe import Recipe, first_difference
from medusa_chat.training.workers import ALONE, Workers

# What the data depends on; the rest of a recipe may change between data and training.
_DATA_FIELDS = ("num_tokens", "sequence_length", "user_temperature", "answer_temperature", "seed")
_CLAIM = "recipe.json"
_LARGEST_IN_TWO_BYTES = 0xFFFF
_SAMPLE_SIZE = 8


def write_shards(
    folder: Path,
    writer: DialogueWriter,
    recipe: Recipe,
    sequences_per_shard: int,
    on_progress: Callable[[int], None],
    workers: Workers = ALONE,
) -> list[Path]:
    """Writes what is still missing, each worker its share; on_progress gets the number of dialogues there
    are. A folder begun with another sequences_per_shard (another device's) goes on with its own. sample.txt
    beside the shards is for people to read.

    Raises UsageError if the folder holds data of another recipe, CheckpointError if it can't be written to.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if workers.is_first:
        _claim(folder, recipe, writer.origin, sequences_per_shard)
    workers.wait()
    sequences_per_shard = _read_claim(folder / _CLAIM)["sequences_per_shard"]
    starts = range(0, recipe.num_sequences, sequences_per_shard)
    files = [folder / f"shard-{start:07d}.safetensors" for start in starts]
    missing = [number for number, file in enumerate(files) if not file.exists()]

    def report() -> None:
        num_shards = sum(file.exists() for file in files)
        on_progress(min(num_shards * sequences_per_shard, recipe.num_sequences))

    if len(missing) < len(files):
        report()
    workers.wait()  # before anybody adds to what is there
    for number in missing[workers.index :: workers.count]:
        start = starts[number]
        count = min(sequences_per_shard, recipe.num_sequences - start)
        dialogues = writer.write(count, recipe.seed * 1_000_003 + start)
        if start == 0:
            _write_sample(folder / "sample.txt", writer, dialogues)
        _save(files[number], dialogues)
        report()
    workers.wait()
    return files


def read_shards(files: list[Path]) -> Dialogues:
    """All dialogues of these shards, raw as they were written (see cleaning.py).

    Raises CheckpointError naming a shard that can't be read.
    """
    shards = []
    for file in files:
        try:
            tensors = safetensors.torch.load_file(file)
            shards.append(Dialogues(tensors["ids"].int(), tensors["answer"], tensors["greedy"]))
        except (OSError, safetensors.SafetensorError, KeyError) as error:
            raise CheckpointError(f"{file} is damaged ({error}); remove it and run train again.") from None
    return Dialogues(
        torch.cat([shard.ids for shard in shards]),
        torch.cat([shard.answer for shard in shards]),
        torch.cat([shard.greedy for shard in shards]),
    )


def _save(file: Path, dialogues: Dialogues) -> None:
    ids = dialogues.ids
    if ids.max() <= _LARGEST_IN_TWO_BYTES:
        ids = ids.to(torch.uint16)
    tensors = {"ids": ids, "answer": dialogues.answer, "greedy": dialogues.greedy}
    write_whole(file, safetensors.torch.save(tensors))


def _write_sample(file: Path, writer: DialogueWriter, dialogues: Dialogues) -> None:
    """The first few dialogues as text."""
    texts = []
    for number, ids in enumerate(dialogues.ids[:_SAMPLE_SIZE]):
        answers = "greedy answers" if dialogues.greedy[number] else "sampled answers"
        texts.append(f"===== dialogue {number}, {answers} =====\n{printable(writer.text(ids))}\n")
    write_whole(file, "\n".join(texts).encode())


def _claim(folder: Path, recipe: Recipe, origin: dict[str, Any], sequences_per_shard: int) -> None:
    """Notes what the data is made with, or checks it against what is there."""
    wanted = {name: value for name, value in asdict(recipe).items() if name in _DATA_FIELDS}
    wanted |= origin
    file = folder / _CLAIM
    # Settings that failed before the first shard, out of memory say, bind nobody.
    if not any(folder.glob("shard-*.safetensors")):
        content = {**wanted, "sequences_per_shard": sequences_per_shard}
        write_whole(file, (json.dumps(content, indent=1) + "\n").encode())
        return
    difference = first_difference(wanted, _read_claim(file))
    if difference is not None:
        raise UsageError(
            f"{folder} holds dialogues written with {difference}; "
            "use the same settings, or remove that folder to start anew."
        )


def _read_claim(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("sequences_per_shard"), int):
        raise CheckpointError(
            f"{file} is missing or damaged, so nobody knows how the dialogues beside it were written; "
            f"remove {file.parent} and run train again."
        )
    return found


def split(dialogues: Dialogues, held_out: float) -> tuple[Dialogues, Dialogues]:
    """Training and held-out dialogues: the last ones are held out, two at least, as every other is greedy."""
    total = len(dialogues.ids)
    cut = total - min(max(2, round(total * held_out)), total - 1)
    first, second = (
        Dialogues(dialogues.ids[part], dialogues.answer[part], dialogues.greedy[part])
        for part in (slice(0, cut), slice(cut, total))
    )
    return first, second
