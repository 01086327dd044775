"""Heads to other programs' formats and back; what those programs would make of the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from medusa_chat import files
from medusa_chat.decoding.draft import Candidates
from medusa_chat.decoding.generate import Context, generate
from medusa_chat.decoding.planning import Plan
from medusa_chat.errors import CheckpointError, UnsupportedModel, UsageError
from medusa_chat.model.base import BaseModel
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.head_files import load_heads
from medusa_chat.model.head_formats import Export, check_exportable, export_heads
from medusa_chat.model.mlp_heads import MlpHeads
from medusa_chat.records import HeadFormat, SamplingOptions
from tests.tiny import TableModel, random_path_heads, table_heads, tiny_llama

K, D, V = 3, 32, 64
VOCABULARY = torch.tensor([40, 3, 63, 1, 7, 20, 21, 22, 23, 24, 30])
FORMS: tuple[HeadFormat, ...] = ("medusa", "tgi", "vllm")


def block_heads(
    *, num_layers: int = 1, own: bool = False, vocabulary: torch.Tensor | None = None
) -> BlockHeads:
    num_tokens = V if vocabulary is None else len(vocabulary)
    heads = BlockHeads(
        torch.randn(num_layers, K, D, D) * 0.3,
        torch.randn(num_layers, K, 1, D) * 0.3,
        torch.randn(K, num_tokens, D) if own else None,
        vocabulary,
        {"base_fingerprint": tiny_llama().fingerprint, "path_probability": {"0": 0.5}, "steps": 7},
    )
    return heads.requires_grad_(False)


def exported(heads: BlockHeads, form: HeadFormat, folder: Path) -> Export:
    export = export_heads(check_exportable(heads, form), tiny_llama(), "some/base", form)
    export.save(folder)
    return export


def config_in(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def whole_logits(heads: BlockHeads, hidden: torch.Tensor, base: BaseModel) -> torch.Tensor:
    """(K, V): minus infinity for tokens that are not guessed among."""
    logits = heads.logits(hidden, base)
    if heads.vocabulary is None:
        return logits
    return torch.full((K, V), -torch.inf).index_copy(1, heads.vocabulary, logits)


LAYOUTS = [
    *((form, own, None) for form in FORMS for own in (False, True)),
    *((form, False, VOCABULARY) for form in FORMS),
    ("vllm", True, VOCABULARY),
]


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize(("form", "own", "vocabulary"), LAYOUTS)
def test_there_and_back(
    tmp_path: Path, form: HeadFormat, own: bool, vocabulary: torch.Tensor | None, num_layers: int
) -> None:
    base, heads = tiny_llama(), block_heads(num_layers=num_layers, own=own, vocabulary=vocabulary)
    exported(heads, form, tmp_path)
    again = load_heads(tmp_path)
    again.check_fits(base, "tiny")
    assert isinstance(again, BlockHeads)
    assert (again.num_heads, again.num_layers, again.calibration) == (K, num_layers, {(0,): 0.5})
    assert torch.equal(again.weight, heads.weight)
    assert torch.equal(again.bias, heads.bias)
    if form != "vllm":
        heads = BlockHeads(heads.weight, heads.bias, heads.lm_heads)  # over all tokens
    assert (again.vocabulary is None) is (heads.vocabulary is None)
    hidden = torch.randn(1, D)
    torch.testing.assert_close(whole_logits(again, hidden, base), whole_logits(heads, hidden, base))


def test_files_and_keys_of_the_reference_code(tmp_path: Path) -> None:
    blocks = {f"{head}.0.linear.{part}" for head in range(K) for part in ("weight", "bias")}
    config = {"medusa_num_heads": K, "medusa_num_layers": 1, "base_model_name_or_path": "some/base"}
    kept = {"base_fingerprint": tiny_llama().fingerprint, "path_probability": {"0": 0.5}}
    for own, names, version in (
        (False, blocks, {"version": "2"}),
        (True, blocks | {f"{head}.1.weight" for head in range(K)}, {}),
    ):
        for form, weights in (
            ("medusa", {"medusa_lm_head.pt", "medusa_lm_head.safetensors"}),
            ("tgi", {"medusa_lm_head.safetensors"}),
        ):
            folder = tmp_path / f"{form}-{own}"
            exported(block_heads(own=own), form, folder)
            assert {file.name for file in folder.iterdir()} == weights | {"config.json"}
            assert set(safetensors.torch.load_file(folder / "medusa_lm_head.safetensors")) == names
            assert config_in(folder) == config | version | kept


@pytest.mark.parametrize("vocabulary", [None, VOCABULARY], ids=["all tokens", "token map"])
@pytest.mark.parametrize("own", [False, True], ids=["base's LM head", "own LM heads"])
def test_files_and_keys_of_vllm(tmp_path: Path, own: bool, vocabulary: torch.Tensor | None) -> None:
    exported(block_heads(num_layers=2, own=own, vocabulary=vocabulary), "vllm", tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"model.safetensors", "config.json"}
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    names = {f"blocks.{h}.layers.{x}.{part}" for h in range(K) for x in (0, 1) for part in ("weight", "bias")}
    names |= {f"lm_heads.{head}.weight" for head in range(K)} if own else {"lm_head.weight"}
    assert set(tensors) == (names if vocabulary is None else names | {"token_map"})
    num_tokens = V if vocabulary is None else len(vocabulary)
    assert tensors["lm_heads.0.weight" if own else "lm_head.weight"].shape == (num_tokens, D)
    assert config_in(tmp_path) == {
        "architectures": ["MedusaModel"],
        "model_type": "medusa",
        "hidden_size": D,
        "num_heads": K,
        "num_hidden_layers": 2,
        "vocab_size": V,
        "truncated_vocab_size": num_tokens,
        "medusa_fc_bias": True,
        "original_lm_head": not own,
        "base_model_name_or_path": "some/base",
        "base_fingerprint": tiny_llama().fingerprint,
        "path_probability": {"0": 0.5},
    }


def as_vllm_computes(folder: Path, hidden: torch.Tensor) -> torch.Tensor:
    """(K, V) by the rules of vLLM's medusa.py."""
    config = config_in(folder)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    token_map = tensors["token_map"] if config["truncated_vocab_size"] < config["vocab_size"] else None
    logits = torch.full((config["num_heads"], config["vocab_size"]), -torch.inf)
    for head in range(config["num_heads"]):
        x = hidden[0]
        for layer in range(config["num_hidden_layers"]):
            block = f"blocks.{head}.layers.{layer}"
            x = x + F.silu(F.linear(x, tensors[f"{block}.weight"], tensors[f"{block}.bias"]))
        name = "lm_head.weight" if config["original_lm_head"] else f"lm_heads.{head}.weight"
        assert len(tensors[name]) == config["truncated_vocab_size"]
        logits[head, slice(None) if token_map is None else token_map] = tensors[name] @ x
    return logits


@pytest.mark.parametrize("vocabulary", [None, VOCABULARY, torch.randperm(V)], ids=["none", "some", "every"])
@pytest.mark.parametrize("own", [False, True], ids=["base's LM head", "own LM heads"])
def test_vllm_computes_the_same(tmp_path: Path, own: bool, vocabulary: torch.Tensor | None) -> None:
    heads, hidden = block_heads(num_layers=2, own=own, vocabulary=vocabulary), torch.randn(1, D)
    exported(heads, "vllm", tmp_path)
    expected = whole_logits(heads, hidden, tiny_llama())
    torch.testing.assert_close(as_vllm_computes(tmp_path, hidden), expected)


@pytest.mark.parametrize("own", [False, True], ids=["base's LM head", "own LM heads"])
def test_the_reference_code_computes_the_same(tmp_path: Path, own: bool) -> None:
    base, heads, hidden = tiny_llama(), block_heads(own=own), torch.randn(1, D)
    exported(heads, "medusa", tmp_path)
    tensors = torch.load(tmp_path / "medusa_lm_head.pt", weights_only=True)
    assert len(tensors) == (3 if own else 2) * K
    for head, expected in enumerate(heads.logits(hidden, base)):
        block = f"{head}.0.linear"
        x = hidden[0] + F.silu(F.linear(hidden[0], tensors[f"{block}.weight"], tensors[f"{block}.bias"]))
        lm_head = tensors[f"{head}.1.weight"] if own else base.lm_head_weight
        torch.testing.assert_close(lm_head @ x, expected)


def test_tgi_reads_several_blocks_only_with_lm_heads(tmp_path: Path) -> None:
    export = exported(block_heads(num_layers=2), "tgi", tmp_path)
    assert export.remarks == (
        "tgi reads several blocks only before LM heads of their own: each head got a copy of the base's.",
    )
    tensors = safetensors.torch.load_file(tmp_path / "medusa_lm_head.safetensors")
    assert all(torch.equal(tensors[f"{head}.2.weight"], tiny_llama().lm_head_weight) for head in range(K))
    assert "version" not in config_in(tmp_path)


def test_what_gets_lost_is_said(tmp_path: Path) -> None:
    heads = block_heads(num_layers=2, vocabulary=VOCABULARY)
    heads.config["adapter"] = "0123"
    assert exported(heads, "medusa", tmp_path).remarks == (
        "Of the reference code only medusa_model_legacy.py lets heads share the base's LM head.",
        "The reference code runs each head's last block 2 times in place of its 2 blocks; "
        "other readers of this format do better.",
        "medusa has no token map: these heads guess among all 64 tokens there, no longer among 11.",
        "These heads were trained together with an adapter: serve the base model with it, "
        "or they guess less well.",
    )


@pytest.mark.parametrize("form", FORMS)
def test_one_block_with_its_own_lm_head_loses_nothing(tmp_path: Path, form: HeadFormat) -> None:
    assert exported(block_heads(own=True), form, tmp_path).remarks == ()


@pytest.mark.parametrize("form", FORMS)
def test_other_kinds_are_refused(form: HeadFormat) -> None:
    mlp = MlpHeads.fresh(K, 24, D)
    for heads in (mlp, random_path_heads(tiny_llama(), K)):
        with pytest.raises(
            UnsupportedModel, match=f"kind {heads.kind} .* for {form} knows .*--head-kind block"
        ):
            check_exportable(heads, form)


@pytest.mark.parametrize("form", ["medusa", "tgi"])
def test_own_lm_heads_of_some_tokens_are_refused(form: HeadFormat) -> None:
    heads = block_heads(own=True, vocabulary=VOCABULARY)
    with pytest.raises(UnsupportedModel, match=f"only 11 tokens, which {form} can't hold; .*--format vllm"):
        check_exportable(heads, form)


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear")
    with pytest.raises(UsageError, match=f"{tmp_path} is not empty; choose another folder"):
        exported(block_heads(), "vllm", tmp_path)
    with pytest.raises(UsageError, match=r"letter.txt is a file; choose a folder"):
        exported(block_heads(), "vllm", tmp_path / "letter.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == number:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(CheckpointError, match=r"can't be written \(No space left on device\)"):
        exported(block_heads(), "medusa", tmp_path)
    assert list(tmp_path.iterdir()) == []
    exported(block_heads(), "medusa", tmp_path)  # the same command again


def rewrite_vllm(folder: Path, changes: dict[str, torch.Tensor | None], prefix: str = "") -> None:
    tensors: dict[str, torch.Tensor | None] = {
        **safetensors.torch.load_file(folder / "model.safetensors"),
        **changes,
    }
    kept = {prefix + name: tensor for name, tensor in tensors.items() if tensor is not None}
    safetensors.torch.save_file(kept, folder / "model.safetensors")


def test_vllm_files_of_others(tmp_path: Path) -> None:
    """A prefix, no biases, LM heads of more tokens than the map, no config."""
    heads = block_heads(own=True)
    exported(heads, "vllm", tmp_path)
    no_bias = {f"blocks.{head}.layers.0.bias": None for head in range(K)}
    rewrite_vllm(tmp_path, {**no_bias, "token_map": VOCABULARY.int()}, "medusa_heads.")
    (tmp_path / "config.json").unlink()
    again = load_heads(tmp_path)
    assert isinstance(again, BlockHeads)
    assert heads.lm_heads is not None
    assert again.lm_heads is not None
    assert not again.bias.any()
    assert torch.equal(again.lm_heads, heads.lm_heads[:, VOCABULARY])
    again.check_fits(tiny_llama(), "tiny")


def test_own_lm_heads_of_some_tokens_draft() -> None:
    """After token i comes i + 1, and the heads know it of all tokens but 5."""
    table = torch.roll(torch.eye(12), 1, dims=1) * 20
    base, whole = TableModel(table), table_heads(table, 3)
    vocabulary = torch.tensor([i for i in torch.randperm(12).tolist() if i != 5])
    assert isinstance(whole, BlockHeads)
    assert whole.lm_heads is not None
    heads = BlockHeads(whole.weight, whole.bias, whole.lm_heads[:, vocabulary], vocabulary)
    heads.check_fits(tiny_llama(vocab_size=12, hidden_size=12), "tiny")
    plan, options = Plan(Candidates([(0,), (0, 0), (0, 0, 0)])), SamplingOptions(temperature=0, max_tokens=13)
    steps = list(generate(base, heads, Context(base.new_cache()), [6], lambda: options, lambda _: plan))
    assert [list(step.ids) for step in steps] == [[7], [8, 9, 10, 11], [0, 1, 2, 3], [4, 5], [6, 7]]


def test_an_original_lm_head_is_the_bases_under_either_name(tmp_path: Path) -> None:
    exported(block_heads(), "vllm", tmp_path)
    rewrite_vllm(tmp_path, {"lm_heads.0.weight": tiny_llama().lm_head_weight, "lm_head.weight": None})
    again = load_heads(tmp_path)
    assert isinstance(again, BlockHeads)
    again.share_lm_head(tiny_llama())
    assert again.lm_heads is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"blocks.1.layers.0.bias": None}, "lacks the tensor blocks.1.layers.0.bias"),
        ({"blocks.1.layers.0.weight": None}, "lacks the tensor blocks.1.layers.0.weight"),
        ({"lm_heads.2.weight": None}, "lacks the tensor lm_heads.2.weight"),
        ({"lm_heads.2.weight": torch.zeros(5, D)}, "heads of different shapes in lm_heads.0.weight"),
        ({"token_map": torch.arange(V + 1)}, "LM heads of 64 tokens, which its token_map doesn't fit"),
        ({"token_map": torch.tensor([1, V])}, "LM heads of 64 tokens, which its token_map doesn't fit"),
    ],
)
def test_a_wrong_vllm_tensor_is_named(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], sentence: str
) -> None:
    exported(block_heads(own=True), "vllm", tmp_path)
    rewrite_vllm(tmp_path, changes)
    with pytest.raises(CheckpointError, match=sentence):
        load_heads(tmp_path)
