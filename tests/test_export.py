"""`medusa-chat export` on a tiny model in a folder, and once on the real default model."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch

from medusa_chat import cli
from medusa_chat.engine.opening import open_heads, open_model
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.head_files import load_heads
from medusa_chat.records import HeadFormat, LoadRequest
from tests.tiny import random_path_heads, tiny_llama
from tests.training.chatty import save_chatty_model


@pytest.fixture
def chatty(tmp_path: Path) -> Path:
    folder = tmp_path / "chatty"
    save_chatty_model(folder)
    return folder


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    folder = tmp_path / "heads"
    BlockHeads.fresh(4, 1, 32, torch.arange(5, 40)).save(folder)
    return folder


def export(*arguments: str | Path) -> int:
    """The exit status of `export` run in this process."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["export", *map(str, arguments)])
    return exit_.value.code if isinstance(exit_.value.code, int) else 0


@pytest.mark.parametrize("form", ["medusa", "vllm", "tgi"])
def test_it_writes_heads_that_load_again(
    form: HeadFormat, chatty: Path, heads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o u t"
    assert export(chatty, "--format", form, "--heads", heads, "--out", out) == 0
    assert load_heads(out).num_heads == 4
    *remarks, last = capsys.readouterr().out.splitlines()
    assert last.startswith(f"The heads are in {out}.")
    assert any("no token map" in remark for remark in remarks) is (form != "vllm")
    assert json.loads((out / "config.json").read_text())["base_model_name_or_path"] == str(chatty)
    if form == "vllm":
        command = shlex.split(last.partition("Serve them: ")[2])
        assert command[:4] == ["vllm", "serve", str(chatty), "--speculative-config"]
        assert json.loads(command[4]) == {"method": "medusa", "model": str(out), "num_speculative_tokens": 4}


def test_what_cant_be_done_is_said_before_the_model_is_loaded(
    chatty: Path,
    heads: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("medusa_chat.engine.opening.open_model", lambda *_: pytest.fail("loaded"))
    out, path_heads = tmp_path / "out", tmp_path / "path_heads"
    random_path_heads(tiny_llama(), 3).save(path_heads)
    assert export(chatty, "--format", "vllm", "--out", out) == 2
    assert export(chatty, "--format", "vllm", "--heads", path_heads, "--out", out) == 1
    assert export(chatty, "--format", "vllm", "--heads", heads, "--out", chatty) == 2
    assert capsys.readouterr().err.splitlines() == [
        "chatty has no heads to export; name some with --heads, or train them with "
        f"`medusa-chat train {chatty} --head-kind block`.",
        "Heads of the kind path can't be exported, for vllm knows only the paper's residual blocks; "
        "train such heads with `medusa-chat train MODEL --head-kind block`.",
        f"{chatty} is not empty; choose another folder for the heads, or empty it first.",
    ]
    assert not out.exists()


def test_heads_of_another_model_are_refused(
    chatty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    BlockHeads.fresh(4, 1, 48).save(tmp_path / "others")
    out = tmp_path / "out"
    assert export(chatty, "--format", "tgi", "--heads", tmp_path / "others", "--out", out) == 1
    assert "are for a hidden size of 48" in capsys.readouterr().err
    assert not out.exists()


def test_the_real_models_heads_go_there_and_back(default_model_here: str, tmp_path: Path) -> None:
    model = open_model(LoadRequest(default_model_here, device="cpu"), lambda _: None)
    heads = BlockHeads.fresh(3, 2, model.base.hidden_size, torch.arange(100, 5000)).to(torch.bfloat16)
    heads.weight.data.normal_(0, 0.02)
    trained, out = tmp_path / "trained", tmp_path / "out"
    heads.save(trained)
    before = open_heads(model, str(trained))
    assert export(default_model_here, "--format", "vllm", "--heads", trained, "--out", out) == 0
    after = open_heads(model, str(out))
    assert before is not None
    assert after is not None
    hidden = torch.randn(1, model.base.hidden_size, dtype=model.base.dtype)
    assert torch.equal(after.logits(hidden, model.base), before.logits(hidden, model.base))
