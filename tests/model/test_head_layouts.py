"""Every published layout gives the logits of the tensors that were written; every broken file is named."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medusa_chat.engine.opening import open_heads, open_model
from medusa_chat.engine.session import open_session
from medusa_chat.errors import CheckpointError, HeadsMismatch, MedusaError
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.head_files import load_heads, outline_heads
from medusa_chat.records import Chunk, LoadRequest, Message, SamplingOptions
from tests.model.layouts import KnownHeads, write_a, write_b, write_c, write_d, write_e, write_tensors
from tests.tiny import tiny_llama
from tests.training.chatty import save_chatty_model

BASE = tiny_llama()
V, D = BASE.vocab_size, BASE.hidden_size
HIDDEN = torch.randn(D, generator=torch.Generator().manual_seed(1))
TOKENS = torch.tensor([40, 3, 63, 1, 7, 20])
SHARED = BASE.lm_head_weight.expand(3, -1, -1)


def loaded(source: Path) -> BlockHeads:
    heads = load_heads(source)
    heads.check_fits(BASE, "tiny")
    heads.share_lm_head(BASE)
    assert isinstance(heads, BlockHeads)
    return heads


def logits(heads: BlockHeads) -> torch.Tensor:
    return heads.to(torch.float32).logits(HIDDEN[None], BASE)


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a(tmp_path: Path, num_layers: int) -> None:
    known = KnownHeads.random(5, num_layers)
    heads = loaded(write_a(tmp_path, known))
    assert (heads.layout, heads.num_heads, heads.num_layers) == ("A", 5, num_layers)
    same(logits(heads), known.logits(HIDDEN))
    assert heads.remarks == (
        f"{tmp_path}/config.json says medusa_num_heads 2, but by the tensors in "
        f"{tmp_path}/medusa_lm_head.pt it is 5, which is used.",
    )
    same(logits(loaded(tmp_path / "medusa_lm_head.pt")), known.logits(HIDDEN))  # the file itself


def test_a_in_the_oldest_form_of_pickles_and_in_bfloat16(tmp_path: Path) -> None:
    known = KnownHeads.random()
    write_a(tmp_path, known)
    tensors = {name: tensor.bfloat16() for name, tensor in known.reference_names(lm_heads=True).items()}
    torch.save(tensors, tmp_path / "medusa_lm_head.pt", _use_new_zipfile_serialization=False)
    heads = loaded(tmp_path)
    assert heads.weight.dtype == torch.bfloat16
    torch.testing.assert_close(logits(heads), known.logits(HIDDEN), rtol=0.05, atol=0.5)


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_b_is_base_and_heads_in_one_folder(tmp_path: Path, suffix: str) -> None:
    save_chatty_model(tmp_path)
    known = KnownHeads.random(4)
    write_b(tmp_path, BASE.causal_lm.state_dict(), known, suffix)
    model = open_model(LoadRequest(str(tmp_path), device="cpu", dtype="float32"), lambda progress: None)
    heads = open_heads(model, None)
    assert isinstance(heads, BlockHeads)
    assert (heads.layout, heads.num_heads, heads.remarks) == ("B", 4, ())
    same(logits(heads), known.logits(HIDDEN))
    for name, tensor in BASE.causal_lm.state_dict().items():
        same(model.base.causal_lm.state_dict()[name], tensor.half().float())
    assert set(model.base.causal_lm.state_dict()) == set(BASE.causal_lm.state_dict())


@pytest.mark.parametrize("num_layers", [1, 2])
def test_c(tmp_path: Path, num_layers: int) -> None:
    known = KnownHeads.random(3, num_layers)
    heads = loaded(write_c(tmp_path, known))
    assert (heads.layout, heads.num_layers, heads.lm_heads, heads.remarks) == ("C", num_layers, None, ())
    same(logits(heads), known.logits(HIDDEN, SHARED))


@pytest.mark.parametrize("prefix", ["", "medusa_heads."])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("own", [True, False], ids=["lm_heads", "lm_head"])
@pytest.mark.parametrize("tokens", [None, TOKENS], ids=["all", "some"])
def test_d(tmp_path: Path, prefix: str, bias: bool, own: bool, tokens: torch.Tensor | None) -> None:
    known = KnownHeads.random(3, 2)
    if not bias:
        known = KnownHeads(known.weight, torch.zeros_like(known.bias), known.lm_heads)
    rows = torch.arange(V) if tokens is None else tokens
    lm_heads = {f"lm_heads.{head}.weight": known.lm_heads[head, rows] for head in range(3)}
    if not own:
        lm_heads = {"lm_head.weight": known.lm_heads[0, rows]}
    if tokens is not None:
        lm_heads["token_map"] = tokens
    heads = loaded(write_d(tmp_path, known, bias=bias, lm_heads=lm_heads, truncated=len(rows), prefix=prefix))
    assert (heads.layout, heads.num_layers, heads.remarks) == ("D", 2, ())
    expected = known.logits(HIDDEN, None if own else known.lm_heads[:1].expand(3, -1, -1))
    same(logits(heads), expected[:, rows])
    assert heads.tokens(torch.arange(len(rows))).tolist() == rows.tolist()


@pytest.mark.parametrize("tokens", [None, TOKENS], ids=["all", "some"])
def test_ds_copy_of_the_bases_lm_head_is_given_up(tmp_path: Path, tokens: torch.Tensor | None) -> None:
    known = KnownHeads.random()
    rows = torch.arange(V) if tokens is None else tokens
    lm_heads = {"lm_head.weight": BASE.lm_head_weight[rows].bfloat16()}
    lm_heads |= {} if tokens is None else {"token_map": tokens.int()}
    heads = loaded(write_d(tmp_path, known, bias=True, lm_heads=lm_heads, truncated=len(rows)))
    assert heads.lm_heads is None
    if tokens is None:
        same(logits(heads), known.logits(HIDDEN, SHARED))


@pytest.mark.parametrize("own", [True, False])
def test_e(tmp_path: Path, own: bool) -> None:
    known = KnownHeads.random()
    heads = loaded(write_e(tmp_path, known, lm_heads=own))
    assert (heads.layout, heads.remarks) == ("E", ())
    same(logits(heads), known.logits(HIDDEN, None if own else SHARED))


def test_a_config_that_contradicts_vllms_tensors_is_overruled(tmp_path: Path) -> None:
    lm_heads = {f"lm_heads.{head}.weight": torch.zeros(V, D) for head in range(3)}
    write_d(tmp_path, KnownHeads.random(), bias=True, lm_heads=lm_heads, truncated=V)
    claims = {"num_heads": 5, "num_hidden_layers": 2, "medusa_fc_bias": False, "truncated_vocab_size": 9}
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | claims))
    heads = loaded(tmp_path)
    assert (heads.num_heads, heads.num_layers) == (3, 1)
    for remark, (key, value) in zip(heads.remarks, claims.items(), strict=True):
        assert f"says {key} {value}, but by the tensors in {tmp_path}/model.safetensors it is" in remark


def test_an_outline_is_the_same_without_values(tmp_path: Path) -> None:
    write_a(tmp_path, KnownHeads.random(5, 2))
    outline, heads = outline_heads(tmp_path), load_heads(tmp_path)
    assert outline.num_bytes == heads.num_bytes
    assert (outline.num_heads, outline.num_layers, outline.layout) == (5, 2, "A")
    assert all(parameter.is_meta for parameter in outline.parameters())


def test_one_conversation_has_the_same_ids_with_a_and_c(tmp_path: Path) -> None:
    """Of the same tensors: A's LM heads are then the base's."""
    known = KnownHeads.random()
    same_heads = KnownHeads(known.weight, known.bias, SHARED)
    request = save_chatty_model(tmp_path / "base")
    replies = {}
    for name, folder in (
        ("A", write_a(tmp_path / "a", same_heads)),
        ("C", write_c(tmp_path / "c", same_heads)),
    ):
        session = open_session(
            LoadRequest(request.model, str(folder), device="cpu", dtype="float32"), lambda progress: None
        )
        assert session.info.num_heads == 3
        replies[name] = []
        messages: list[Message] = []
        for question in ("What is it ?", "Why ?"):
            messages.append(Message("user", question))
            session.options = SamplingOptions(temperature=0.7, seed=4, max_tokens=24, tree_size=8)
            chunks = [item for item in session.reply(messages) if isinstance(item, Chunk)]
            replies[name] += [chunk.ids for chunk in chunks]
            messages.append(Message("assistant", "".join(chunk.text for chunk in chunks)))
        session.close()
    ids = {name: [token for step in steps for token in step] for name, steps in replies.items()}
    assert ids["A"] == ids["C"]
    assert len(ids["A"]) >= 24


class Bomb:
    """Unpickled by force, it makes a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._file}",)


def _arm(tmp_path: Path) -> None:
    tensors = KnownHeads.random().reference_names(lm_heads=True)
    torch.save({**tensors, "note": Bomb(tmp_path / "exploded")}, tmp_path / "medusa_lm_head.pt")


def _arm_bare(tmp_path: Path) -> None:
    (tmp_path / "medusa_lm_head.pt").write_bytes(pickle.dumps({"0": Bomb(tmp_path / "exploded")}))


def _cut(tmp_path: Path) -> None:
    file = tmp_path / "medusa_lm_head.pt"
    file.write_bytes(file.read_bytes()[:-1000])


def _claim_terabytes(tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(2**20, 2**20)
    torch.save({"0.0.linear.weight": huge}, tmp_path / "medusa_lm_head.pt")


def _changed(**changes: torch.Tensor | None) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        write_a(folder, KnownHeads.random(), **changes)

    return write


def _replaced(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "medusa_lm_head.pt").write_bytes(content)

    return write


LACKS, OTHER = "lacks the tensor", "holds something other than tensors, which could run code"
BLOCK, BIAS = torch.zeros(D, D), torch.zeros(D)
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no weight of the last head": (_changed(**{"2.0.linear.weight": None}), f"{LACKS} 2.0.linear.weight"),
    "no bias": (_changed(**{"1.0.linear.bias": None}), f"{LACKS} 1.0.linear.bias"),
    "no LM head": (_changed(**{"0.1.weight": None}), f"{LACKS} 0.1.weight"),
    "half a second block": (_changed(**{"1.1.linear.weight": BLOCK}), f"{LACKS} 0.1.linear.weight"),
    "a far head": (_changed(**{"9000.0.linear.bias": BIAS}), f"{LACKS} 3.0.linear.weight"),
    "one shape differs": (
        _changed(**{"1.0.linear.weight": torch.zeros(D, D + 1)}),
        "different shapes in 0.0.linear.weight and 1.0.linear.weight",
    ),
    "wrong shapes": (
        _changed(**{f"{head}.0.linear.bias": torch.zeros(D + 1) for head in range(3)}),
        r"a wrong shape in 0.0.linear.bias, \[33\]",
    ),
    "nan": (_changed(**{"2.0.linear.weight": BLOCK * torch.nan}), "not numbers in 2.0.linear.weight"),
    "infinity": (_changed(**{"1.0.linear.bias": BIAS - torch.inf}), "not numbers in 1.0.linear.bias"),
    "whole numbers": (
        _changed(**{"1.0.linear.bias": BIAS.to(torch.int8)}),
        "1.0.linear.bias as int8, not as",
    ),
    "truncated": (_cut, "is damaged"),
    "empty": (_replaced(b""), "is damaged"),
    "not a pickle": (_replaced(b"<html>"), OTHER),
    "a pointer": (_replaced(b"version https://git-lfs.github.com/spec/v1"), "only points to the weights"),
    "terabytes": (_claim_terabytes, "is damaged .*larger than the file"),
    "a pickle bomb": (_arm, OTHER),
    "a bare pickle bomb": (_arm_bare, OTHER),
    "a list": (lambda folder: torch.save([1], folder / "medusa_lm_head.pt"), "holds no Medusa heads"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named_at_once_and_runs_nothing(tmp_path: Path, case: str) -> None:
    break_it, sentence = BROKEN[case]
    write_a(tmp_path, KnownHeads.random())
    break_it(tmp_path)
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match=sentence) as error:
        load_heads(tmp_path)
    assert time.perf_counter() - started < 1
    assert str(error.value).startswith(str(tmp_path / "medusa_lm_head.pt"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("own", [True, False])
def test_a_vocabulary_off_by_one_is_told_before_the_base_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    request = save_chatty_model(tmp_path / "base")
    if own:
        write_a(tmp_path / "heads", KnownHeads.random(vocab_size=V + 1))
    else:
        lm_heads = {"lm_head.weight": torch.zeros(2, D), "token_map": torch.tensor([5, V])}
        write_d(tmp_path / "heads", KnownHeads.random(), bias=True, lm_heads=lm_heads, truncated=2)
    monkeypatch.setattr("medusa_chat.engine.opening.load_base_model", None)  # would fail otherwise
    with pytest.raises(
        HeadsMismatch, match=f"The heads in {tmp_path}/heads/.* have a vocabulary of 65, but .* has 64"
    ):
        open_session(LoadRequest(request.model, str(tmp_path / "heads")), lambda progress: None)


def _drop_shard(folder: Path) -> None:
    (folder / "pytorch_model-00002-of-00002.bin").unlink()


def _arm_shard(folder: Path) -> None:
    torch.save({"x": Bomb(folder / "exploded")}, folder / "pytorch_model-00001-of-00002.bin")


def _lead_astray(folder: Path) -> None:
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "../other.bin"}}')


def _spoil_head(folder: Path) -> None:
    file = folder / "pytorch_model-00002-of-00002.bin"
    tensors = torch.load(file, weights_only=True)
    write_tensors(file, {**tensors, "medusa_head.1.0.linear.weight": torch.full((D, D), torch.nan)})


def _lose_head(folder: Path) -> None:
    file = folder / "pytorch_model-00002-of-00002.bin"
    tensors = torch.load(file, weights_only=True)
    del tensors["medusa_head.1.0.linear.weight"]
    write_tensors(file, tensors)


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (_drop_shard, "pytorch_model-00002-of-00002.bin is missing"),
        (_arm_shard, "pytorch_model-00001-of-00002.bin holds something other than tensors"),
        (_lead_astray, "is damaged|doesn't say which files"),
        (
            _spoil_head,
            "00002-of-00002.bin holds values that are not numbers in 1.0.linear.weight",
        ),
        (_lose_head, "lacks the tensor 1.0.linear.weight"),
    ],
)
def test_a_broken_b_is_named(tmp_path: Path, break_it: Callable[[Path], None], sentence: str) -> None:
    save_chatty_model(tmp_path)
    write_b(tmp_path, BASE.causal_lm.state_dict(), KnownHeads.random(), "bin")
    break_it(tmp_path)
    with pytest.raises(MedusaError, match=sentence) as error:
        open_session(LoadRequest(str(tmp_path), device="cpu"), lambda progress: None)
    assert str(tmp_path) in str(error.value)
    assert not (tmp_path / "exploded").exists()
