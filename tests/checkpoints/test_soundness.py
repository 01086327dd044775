from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from medusa_chat import checkpoints
from medusa_chat.checkpoints.soundness import find_damage, find_heads_damage, read_shapes
from medusa_chat.errors import CheckpointError
from medusa_chat.registry import resolve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    save_file({"a": np.ones(8), "b": np.ones(3)}, checkpoint / "model.safetensors")
    return checkpoint


def _shards(folder: Path, weight_map: object) -> None:
    """An index; safetensors in one file become a shard."""
    if (folder / "model.safetensors").exists():
        (folder / "model.safetensors").rename(folder / "first.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _cut(file: Path, to: int) -> None:
    file.write_bytes(file.read_bytes()[:to])


def test_a_whole_checkpoint_is_sound(folder: Path) -> None:
    assert find_damage(folder) is None


def test_a_whole_checkpoint_of_shards_is_sound(folder: Path) -> None:
    save_file({"c": np.ones(2)}, folder / "other.safetensors")
    _shards(folder, {"a": "first.safetensors", "b": "first.safetensors", "c": "other.safetensors"})
    assert find_damage(folder) is None


def test_shapes_are_told_from_headers(folder: Path) -> None:
    assert read_shapes(folder) == {"a": (8,), "b": (3,)}
    save_file({"c": np.ones((2, 5))}, folder / "other.safetensors")
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    _shards(folder, {"a": "one.safetensors", "b": "one.safetensors", "c": "other.safetensors"})
    assert read_shapes(folder)["c"] == (2, 5)
    _cut(folder / "other.safetensors", 20)
    assert read_shapes(folder) == {}


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_bytes(b"\xff"), "config.json is not JSON"),
        (lambda f: (f / "model.safetensors").unlink(), "it holds no weights"),
        (lambda f: _cut(f / "model.safetensors", -1), "model.safetensors is cut short or not safetensors"),
        (lambda f: _cut(f / "model.safetensors", 20), "model.safetensors is cut short or not safetensors"),
        (lambda f: _cut(f / "model.safetensors", 0), "model.safetensors is cut short or not safetensors"),
        (
            lambda f: (f / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"[]"),
            "model.safetensors is cut short or not safetensors",
        ),
        (lambda f: _shards(f, {"a": "gone.safetensors"}), "gone.safetensors is missing"),
        (lambda f: _shards(f, [1]), "it holds no weights"),
    ],
)
def test_damage_is_named(folder: Path, harm: Callable[[Path], object], said: str) -> None:
    harm(folder)
    assert find_damage(folder) == said


def test_a_damaged_folder_of_the_users_is_named_and_left_alone(folder: Path) -> None:
    _cut(folder / "model.safetensors", -1)
    with pytest.raises(CheckpointError, match=r"is damaged: model.safetensors is cut short.* Copy it there"):
        checkpoints.ensure_local(resolve(str(folder)), lambda progress: None)
    assert (folder / "config.json").exists()


def test_a_plain_folder_is_taken_where_it_lies(folder: Path) -> None:
    spec = resolve(str(folder))
    assert checkpoints.ensure_local(spec, lambda progress: None) == folder
    assert checkpoints.local_bytes(spec) == sum(file.stat().st_size for file in folder.iterdir())


@pytest.fixture
def old_folder(folder: Path) -> Path:
    """The same as `folder`, in PyTorch's own format."""
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.ones(8)}, folder / "pytorch_model.bin")
    return folder


def test_weights_in_pytorchs_own_format_are_sound(old_folder: Path) -> None:
    assert find_damage(old_folder) is None
    (old_folder / "pytorch_model.bin").write_bytes(b"\x80\x02 a pickle of old")
    assert find_damage(old_folder) is None


@pytest.mark.parametrize("length", [0, 20, -1])
def test_weights_in_pytorchs_own_format_that_are_cut_short(old_folder: Path, length: int) -> None:
    _cut(old_folder / "pytorch_model.bin", length)
    assert find_damage(old_folder) == "pytorch_model.bin is cut short"


def test_of_two_formats_the_one_counts_that_transformers_prefers(old_folder: Path) -> None:
    _shards(old_folder, {"a": "gone.safetensors"})
    assert find_damage(old_folder) == "gone.safetensors is missing"


def test_shards_without_their_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    assert find_damage(folder) == "model.safetensors.index.json is missing"


def test_heads(folder: Path, old_folder: Path) -> None:
    assert find_heads_damage(folder) is None  # perhaps in the weights of their base
    (folder / "medusa_lm_head.safetensors").write_bytes(b"short")
    assert find_heads_damage(folder) == "medusa_lm_head.safetensors is cut short or not safetensors"
    for file in folder.iterdir():
        file.unlink()
    assert find_heads_damage(folder) == "it holds no heads"
