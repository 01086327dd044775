"""Medusa heads: the formula by hand, both layouts on disk, every way a file can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from medusa_chat.errors import CheckpointError, HeadsMismatch
from medusa_chat.model.base import BaseModel
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.head_files import load_heads
from medusa_chat.model.heads import CONFIG_FILE, WEIGHTS_FILE, MedusaHeads
from medusa_chat.model.lean import lean
from medusa_chat.model.lean_heads import lean_heads
from medusa_chat.model.mlp_heads import MlpHeads
from medusa_chat.model.path_heads import GatedLayer, PathHeads
from tests.tiny import random_heads, random_path_heads, tiny_llama


def test_a_residual_block_by_hand() -> None:
    # D = 2: h = (1, 2); head 1: W h + b = (0, ln 3) → SiLU(ln 3) = ln 3 · 3/4, so x = (1, 2 + 0.75 ln 3).
    weight = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    bias = torch.tensor([[[[0.0, 1.0986123]], [[-1.0, -2.0]]]])
    out = BlockHeads(weight, bias)(torch.tensor([[1.0, 2.0]]))
    assert out[0].tolist() == [pytest.approx([1.0, 2.0 + 0.75 * 1.0986123])]
    assert out[1].tolist() == [pytest.approx([1.0, 2.0])]  # W h + b = 0


@pytest.mark.parametrize("own_lm_heads", [False, True])
def test_all_heads_at_once_equal_one_by_one(own_lm_heads: bool) -> None:
    base = tiny_llama()
    heads = random_heads(base, 3, own_lm_heads=own_lm_heads)
    hidden = torch.randn(1, base.hidden_size)
    logits = heads.logits(hidden, base)
    for k in range(3):
        x = hidden[0]
        for layer in range(2):
            y = heads.weight[layer, k] @ x + heads.bias[layer, k, 0]
            x = x + y * torch.sigmoid(y)
        matrix = heads.lm_heads[k] if heads.lm_heads is not None else base.lm_head_weight
        torch.testing.assert_close(logits[k], matrix @ x, rtol=1e-4, atol=1e-4)


def test_fresh_heads_are_the_base_itself() -> None:
    base = tiny_llama()
    hidden = torch.randn(1, base.hidden_size)
    logits = BlockHeads.fresh(4, 2, base.hidden_size).logits(hidden, base)
    torch.testing.assert_close(logits, base.logits(hidden).expand(4, -1))


@pytest.mark.parametrize("own_lm_heads", [False, True])
def test_saved_and_loaded(tmp_path: Path, own_lm_heads: bool) -> None:
    base = tiny_llama()
    heads = random_heads(base, 3, own_lm_heads=own_lm_heads)
    heads.config = {"base_model_name_or_path": "tiny", "path_probability": {"0": 0.5, "0 1": 0.25}}
    heads.save(tmp_path)
    # The reference code's names.
    names = set(safetensors.torch.load_file(tmp_path / WEIGHTS_FILE))
    assert {"0.0.linear.weight", "0.0.linear.bias", "2.1.linear.weight"} <= names
    assert ("2.2.weight" in names) is own_lm_heads
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert (config["medusa_num_heads"], config["medusa_num_layers"]) == (3, 2)
    again = load_heads(tmp_path)
    assert again.calibration == {(0,): 0.5, (0, 1): 0.25}
    hidden = torch.randn(1, base.hidden_size)
    assert torch.equal(again.logits(hidden, base), heads.logits(hidden, base))


def test_counts_come_from_the_tensors_not_the_config(tmp_path: Path) -> None:
    random_heads(tiny_llama(), 5).save(tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps({**config, "medusa_num_heads": 2}))
    assert load_heads(tmp_path).num_heads == 5


def rewrite(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    safetensors.torch.save_file(tensors, folder / WEIGHTS_FILE)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"1.0.linear.bias": None}, "lacks the tensor 1.0.linear.bias"),
        ({"1.0.linear.weight": torch.zeros(3, 3)}, "different shapes"),
        ({"1.1.linear.weight": torch.full((32, 32), torch.nan)}, "not numbers"),
    ],
)
def test_a_wrong_tensor_is_named(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], sentence: str
) -> None:
    random_heads(tiny_llama(), 3).save(tmp_path)
    rewrite(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=sentence):
        load_heads(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no Medusa heads in"):
        load_heads(tmp_path)
    random_heads(tiny_llama(), 2).save(tmp_path)
    whole = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_heads(tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(whole)
    (tmp_path / CONFIG_FILE).write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_heads(tmp_path)
    safetensors.torch.save_file({"other": torch.zeros(1)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match="holds no Medusa heads"):
        load_heads(tmp_path)


def test_heads_of_another_base_are_refused_naming_both_sides() -> None:
    base = tiny_llama()
    with pytest.raises(HeadsMismatch, match="hidden size of 48, but tiny has 32"):
        BlockHeads.fresh(2, 1, 48).check_fits(base, "tiny")
    with pytest.raises(HeadsMismatch, match="vocabulary of 99, but tiny has 64"):
        BlockHeads(torch.zeros(1, 2, 32, 32), torch.zeros(1, 2, 1, 32), torch.zeros(2, 99, 32)).check_fits(
            base, "tiny"
        )
    heads = BlockHeads.fresh(2, 1, 32)
    heads.config = {"base_model_name_or_path": "some/where", "base_fingerprint": base.fingerprint}
    heads.check_fits(base, "tiny")
    with torch.no_grad():
        base.causal_lm.model.norm.weight.add_(1.0)
    with pytest.raises(HeadsMismatch, match=r"trained for some/where .* but tiny has fingerprint"):
        heads.check_fits(base, "tiny")


def test_path_heads_by_hand() -> None:
    # D = 1: the norms leave signs. gate = up = sign(x) + sign(e) + d, W2 = 1: x grows by SiLU(2) · 2 = 3.523.
    layer = GatedLayer(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0]]))
    heads = PathHeads([layer], torch.tensor([[0.0], [1.0]]))
    first, second = heads.rows(torch.tensor([[2.0]]), torch.tensor([[[0.5]], [[-0.1]]]))
    assert first.item() == pytest.approx(2.0 + 3.5232, abs=1e-3)
    # At depth 1: sign(x) = 1, sign(e) + d = 0, so it grows by SiLU(1) · 1 = 0.7311.
    assert second.item() == pytest.approx(first.item() + 0.7311, abs=1e-3)


def kinds(base: BaseModel) -> list[MedusaHeads]:
    vocabulary = torch.tensor([3, 1, 40, 63])
    mlp = MlpHeads(torch.randn(3, 24, 32), torch.randn(3, 1, 24), torch.randn(3, 32, 24), vocabulary)
    return [random_heads(base, 3), mlp, random_path_heads(base, 3, vocabulary)]


@pytest.mark.parametrize("number", range(3))
def test_every_kind_is_read_from_its_tensors(tmp_path: Path, number: int) -> None:
    base = tiny_llama()
    heads = kinds(base)[number]
    heads.save(tmp_path)
    (tmp_path / CONFIG_FILE).unlink()
    again = load_heads(tmp_path)
    assert (again.kind, again.num_heads, again.hidden_size) == (heads.kind, 3, 32)
    hidden, path = torch.randn(5, 32), torch.randn(3, 5, 32)
    assert torch.equal(again.rows(hidden, path), heads.rows(hidden, path))
    guesses = again.shared_logits(hidden, base)
    if heads.vocabulary is None:
        assert again.vocabulary is None
    else:
        assert again.vocabulary.tolist() == heads.vocabulary.tolist()
        torch.testing.assert_close(guesses, base.logits(hidden)[:, heads.vocabulary])


def test_packed_path_heads_guess_nearly_the_same() -> None:
    heads = random_path_heads(tiny_llama(), 3)
    hidden, path = torch.randn(50, 32), torch.randn(3, 50, 32)
    expected = heads.rows(hidden, path)
    packed = lean_heads(heads, lean(tiny_llama()))
    assert (packed.rows(hidden, path) - expected).std() < 0.03 * expected.std()
    assert packed.num_bytes < heads.num_bytes


def test_each_path_guess_follows_from_the_tokens_before_it_alone() -> None:
    heads = random_path_heads(tiny_llama(), 3)
    hidden, path = torch.randn(5, 32), torch.randn(3, 5, 32)
    rows = heads.rows(hidden, path)
    other = path.clone()
    other[1] = 0.0
    changed = heads.rows(hidden, other)
    assert torch.equal(changed[0], rows[0])
    assert not torch.equal(changed[1], rows[1])


@pytest.mark.parametrize(
    ("name", "tensor", "sentence"),
    [
        ("path.0.down.weight", torch.zeros(32, 7), "wrong shape in path.0.gate_up.weight"),
        ("path.depth", torch.zeros(32), "wrong shape in path.depth"),
        ("token_map", torch.tensor([3, 3]), "lists no token, or one twice"),
    ],
)
def test_wrong_path_heads_are_named(tmp_path: Path, name: str, tensor: torch.Tensor, sentence: str) -> None:
    kinds(tiny_llama())[2].save(tmp_path)
    rewrite(tmp_path, **{name: tensor})
    with pytest.raises(CheckpointError, match=sentence):
        load_heads(tmp_path)
