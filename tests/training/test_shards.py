"""Dialogues on disk: interrupted, reused, refused, damaged."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from medusa_chat.errors import CheckpointError, UsageError
from medusa_chat.training.dialogues import Dialogues, DialogueWriter
from medusa_chat.training.recipe import Recipe
from medusa_chat.training.shards import read_shards, split, write_shards
from tests.training.chatty import chatty_model, periodic_dialogues

RECIPE = Recipe(num_tokens=64 * 10, sequence_length=64)  # 10 dialogues


def writer(prompts: tuple[str, ...] = ()) -> DialogueWriter:
    model = chatty_model()
    return DialogueWriter(model.base, model.tokenizer, RECIPE, prompts)


def write(folder: Path, recipe: Recipe = RECIPE, per_shard: int = 4, **kwargs: Any) -> Dialogues:
    return read_shards(write_shards(folder, writer(**kwargs), recipe, per_shard, lambda count: None))


class Killed(BaseException):
    """Nothing after it runs."""


def test_interrupted_it_goes_on_where_it_was_and_writes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "interrupted"
    one = writer()
    calls: list[tuple[int, int]] = []
    honest = one.write

    def dies_in_the_second(num_sequences: int, seed: int) -> Dialogues:
        calls.append((num_sequences, seed))
        if len(calls) == 2:
            raise Killed
        return honest(num_sequences, seed)

    monkeypatch.setattr(one, "write", dies_in_the_second)
    with pytest.raises(Killed):
        write_shards(folder, one, RECIPE, 4, lambda count: None)
    assert [file.name for file in sorted(folder.glob("*.safetensors"))] == ["shard-0000000.safetensors"]

    counts: list[int] = []
    # Another machine would do 6 at once; the folder goes on by 4.
    files = write_shards(folder, one, RECIPE, 6, counts.append)
    assert calls[2:] == [(4, 4), (2, 8)]
    assert counts == [4, 8, 10]
    resumed, straight = read_shards(files), write(tmp_path / "straight")
    assert torch.equal(resumed.ids, straight.ids)
    assert torch.equal(resumed.answer, straight.answer)
    assert torch.equal(resumed.greedy, straight.greedy)
    assert resumed.ids.shape == (10, 64)


def test_what_there_is_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path)
    monkeypatch.setattr(DialogueWriter, "write", lambda *_: pytest.fail("wrote again"))
    assert write(tmp_path).fingerprint == first.fingerprint
    # Settings of the training alone may change.
    write(tmp_path, replace(RECIPE, epochs=9, learning_rate=1.0, num_layers=1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 5}, "seed = 0, not 5"),
        ({"num_tokens": 6400}, "num_tokens = 640, not 6400"),
        ({"answer_temperature": 1.0}, "answer_temperature = 0.7, not 1.0"),
    ],
)
def test_dialogues_of_another_recipe_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write(tmp_path)
    with pytest.raises(UsageError) as caught:
        write(tmp_path, replace(RECIPE, **change))
    assert str(caught.value) == (
        f"{tmp_path} holds dialogues written with {said}; "
        "use the same settings, or remove that folder to start anew."
    )


def test_dialogues_from_other_prompts_or_of_another_base_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UsageError, match=r"prompts = None, not \w+"):
        write(tmp_path, prompts=("What is it",))
    model = chatty_model()
    model.base.causal_lm.model.norm.weight.data += 1
    other = DialogueWriter(model.base, model.tokenizer, RECIPE)
    with pytest.raises(UsageError, match=r"base = \w+, not \w+"):
        write_shards(tmp_path, other, RECIPE, 4, lambda count: None)


def test_settings_that_wrote_nothing_bind_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = writer()

    def fail(num_sequences: int, seed: int) -> Dialogues:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(one, "write", fail)
        with pytest.raises(torch.OutOfMemoryError):
            write_shards(tmp_path, one, replace(RECIPE, num_tokens=6400), 4, lambda count: None)
    assert write(tmp_path).ids.shape == (10, 64)


@pytest.mark.parametrize("damage", ["truncated", "empty", "other"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    write(tmp_path)
    file = tmp_path / "shard-0000004.safetensors"
    whole = file.read_bytes()
    if damage == "other":
        safetensors.torch.save_file({"ids": torch.zeros(2, 2)}, file)
    else:
        file.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"")
    with pytest.raises(CheckpointError) as caught:
        write(tmp_path)
    assert str(caught.value).startswith(f"{file} is damaged (")
    assert str(caught.value).endswith("; remove it and run train again.")
    file.unlink()
    assert write(tmp_path).ids.shape == (10, 64)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"seed": 0}', b"\xff\xfe"])
def test_a_damaged_recipe_is_named(tmp_path: Path, content: str | bytes | None) -> None:
    write(tmp_path)
    file = tmp_path / "recipe.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CheckpointError) as caught:
        write(tmp_path)
    assert str(caught.value) == (
        f"{file} is missing or damaged, so nobody knows how the dialogues beside it were written; "
        f"remove {tmp_path} and run train again."
    )


def test_the_recipe_beside_the_dialogues_says_how_they_were_written(tmp_path: Path) -> None:
    write(tmp_path)
    assert json.loads((tmp_path / "recipe.json").read_text()) == {
        "num_tokens": 640,
        "sequence_length": 64,
        "user_temperature": 1.0,
        "answer_temperature": 0.7,
        "seed": 0,
        "base": chatty_model().base.fingerprint,
        "prompts": None,
        "sequences_per_shard": 4,
    }


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match=r"data can't be written \(File exists\); see to that"):
        write(tmp_path / "data")


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        if (tmp_path / "shard-0000000.safetensors").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError) as caught:
            write(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'shard-0000004.safetensors'} can't be written (No space left on device); "
        "see to that and run the same command again."
    )
    names = ["recipe.json", "sample.txt", "shard-0000000.safetensors"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    seeds = []
    monkeypatch.setattr(
        DialogueWriter,
        "write",
        lambda _, count, seed: seeds.append(seed) or periodic_dialogues(count, 64, 7),
    )
    assert write(tmp_path).ids.shape == (10, 64)
    assert seeds == [4, 8]


def test_a_token_takes_three_bytes(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / "shard-0000000.safetensors"
    assert safetensors.torch.load_file(file)["ids"].dtype == torch.uint16
    assert file.stat().st_size < 3 * 4 * 64 + 400
    assert read_shards([file]).ids.dtype == torch.int32


@pytest.mark.parametrize("largest", [0xFFFF, 0x10000, 151_642])
def test_ids_of_all_sizes_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    data = periodic_dialogues(10, 64, 7)
    data.ids[3, 5] = largest
    monkeypatch.setattr(DialogueWriter, "write", lambda *_: data)
    assert torch.equal(write(tmp_path, per_shard=10).ids, data.ids)


def test_a_sample_is_there_to_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DialogueWriter, "text", lambda _, ids: f"\x1b[31m{len(ids)} tokens\nend")
    write(tmp_path, per_shard=2)
    assert (tmp_path / "sample.txt").read_text() == (
        "===== dialogue 0, greedy answers =====\n[31m64 tokens\nend\n"
        "\n===== dialogue 1, sampled answers =====\n[31m64 tokens\nend\n"
    )


def test_a_dialogues_text_shows_its_turns() -> None:
    one = writer()
    assert one.text(torch.tensor([1, 3, 5, 9, 2, 1, 4])) == "<|turn|> user What is <|end|> <|turn|> assistant"


@pytest.mark.parametrize(
    ("total", "share", "held_out"), [(3, 0.02, 2), (4, 0.02, 2), (200, 0.02, 4), (10, 0.5, 5), (2, 0.9, 1)]
)
def test_the_last_dialogues_are_held_out(total: int, share: float, held_out: int) -> None:
    data = periodic_dialogues(total, 9, 7)
    training, rest = split(data, share)
    assert len(rest.ids) == held_out
    assert torch.equal(torch.cat([training.ids, rest.ids]), data.ids)
    assert torch.equal(torch.cat([training.answer, rest.answer]), data.answer)
    if total > 2:
        assert rest.greedy.any()
