"""`eval`: its figures on heads for which every token ranks first, and its command on a model of a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medusa_chat import cli
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.prompt_file import UserPrompt
from medusa_chat.training.evaluation import SIZES, evaluate
from tests.training.chatty import chatty_model, save_chatty_model

PROMPTS = [UserPrompt("What is it", "ask"), UserPrompt("Say it again", "tell")]


def undecided_heads() -> MedusaHeads:
    """Two heads with an LM head each, to which all tokens are equal."""
    base = chatty_model().base
    lm_heads = torch.zeros(2, base.vocab_size, base.hidden_size)
    heads = BlockHeads(
        torch.zeros(1, 2, base.hidden_size, base.hidden_size),
        torch.zeros(1, 2, 1, base.hidden_size),
        lm_heads,
    )
    heads.config = {"path_probability": {"0": 0.5, "0 0": 0.25}}
    return heads.requires_grad_(False)


def test_every_figure_is_there_and_they_hold_together() -> None:
    done: list[int] = []
    report = evaluate(chatty_model(), undecided_heads(), PROMPTS, 24, done.append)
    assert done == [1, 2]
    assert report["prompts"] == 2
    assert set(report["categories"]) == {"ask", "tell"}
    assert sum(part["rows"] for part in report["categories"].values()) == report["rows"] > 0
    # All logits are equal, so nothing ranks before the true token.
    assert report["top_accuracy"]["1"] == [1.0, 1.0]
    for size in map(str, SIZES):
        # The root's successor, and both heads' first guesses, which are always right.
        assert report["expected"][size] == 3.0
        assert 1.0 <= report["measured"][size] <= 3.0
        assert report["measured"][f"lookup, {size}"] >= 1.0


def test_the_command_prints_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_chatty_model(tmp_path / "model")
    undecided_heads().save(tmp_path / "heads")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "What is it"}\n')
    arguments = ["eval", str(tmp_path / "model"), "--heads", str(tmp_path / "heads"), "--device", "cpu"]
    arguments += ["--dtype", "float32", "--max-tokens", "16", "--prompts", str(tmp_path / "prompts.jsonl")]
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 0
    assert "heads alone" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--json"])
    assert json.loads(capsys.readouterr().out)["prompts"] == 1


def test_a_model_without_heads_is_told_how_to_get_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_chatty_model(tmp_path / "model")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["eval", str(tmp_path / "model"), "--device", "cpu"])
    assert exit_.value.code == 2
    assert "has no heads to measure" in capsys.readouterr().err
