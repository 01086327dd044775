"""From a model to heads the engine loads, on a tiny one; and each fault on the way as one sentence."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medusa_chat.engine.opening import OpenModel, open_heads
from medusa_chat.engine.session import Session
from medusa_chat.errors import (
    CheckpointError,
    HeadsMismatch,
    MedusaError,
    OutOfMemory,
    UnsupportedModel,
    UsageError,
)
from medusa_chat.model.head_files import load_heads
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.records import Chunk, Message, SamplingOptions
from medusa_chat.training import loop
from medusa_chat.training.dialogues import DialogueWriter
from medusa_chat.training.loop import TrainingReport
from medusa_chat.training.medusa1 import Medusa1
from medusa_chat.training.recipe import SELF_DISTILLED, AdapterRecipe, Recipe
from medusa_chat.training.run import Listener, Trained, Training
from tests.training.chatty import chatty_model, silent_listener

RECIPE = Recipe(
    num_heads=2, num_layers=1, num_tokens=64 * 24, sequence_length=64, batch_size=4, epochs=2, held_out=0.2
)


def train(
    tmp_path: Path,
    recipe: Recipe = RECIPE,
    *,
    model: OpenModel | None = None,
    listener: Listener | None = None,
    adapter_recipe: AdapterRecipe | None = None,
) -> Trained:
    trained = Training(
        model or chatty_model(),
        recipe,
        tmp_path / "work",
        tmp_path / "heads",
        listener or silent_listener(),
        adapter_recipe=adapter_recipe,
    ).run()
    assert trained is not None
    return trained


def test_from_a_model_to_heads_the_engine_loads(tmp_path: Path) -> None:
    model = chatty_model()
    dialogues: list[tuple[int, int]] = []
    reports: list[TrainingReport] = []
    listener = Listener(lambda done, total: dialogues.append((done, total)), reports.append)
    accuracy = train(tmp_path, model=model, listener=listener).accuracy
    assert dialogues == [(16, 24), (24, 24)]
    assert (reports[-1].step, reports[-1].num_steps) == (8, 8)  # 19 dialogues learnt from, 4 a step, twice

    heads = open_heads(model, str(tmp_path / "heads"))
    assert heads is not None
    assert (heads.num_heads, heads.num_layers, heads.hidden_size) == (2, 1, 32)
    stored = {path: pytest.approx(p, abs=1e-5) for path, p in accuracy.path_probability.items()}
    assert heads.calibration == stored
    config = json.loads((tmp_path / "heads" / "config.json").read_text())
    assert config["recipe"]["num_tokens"] == RECIPE.num_tokens
    assert config["base_model_name_or_path"] == "test/chatty"
    assert config["base_fingerprint"] == model.base.fingerprint
    assert config["steps"] == 8

    session = Session(model, heads)
    replies = []
    for drafting in (True, False):
        session.options = SamplingOptions(temperature=0.0, max_tokens=40, drafting=drafting, tree_size=8)
        reply = [item for item in session.reply([Message("user", "What is it")]) if isinstance(item, Chunk)]
        replies.append([token for chunk in reply for token in chunk.ids])
    assert replies[0] == replies[1]
    assert len(replies[0]) > 1


def test_an_adapter_learns_with_the_heads_and_is_used_with_them(tmp_path: Path) -> None:
    reports: list[TrainingReport] = []
    second = replace(SELF_DISTILLED, rank=4, alpha=4, epochs=1, learning_rate=1e-3)
    listener = Listener(lambda done, total: None, reports.append)
    model = chatty_model()
    trained = train(tmp_path, model=model, listener=listener, adapter_recipe=second)
    assert [report.step for report in reports if report.step == report.num_steps] == [8, 4]
    assert trained.quality is not None
    assert trained.quality.ratio == pytest.approx(1.0, abs=0.05)
    config = json.loads((tmp_path / "heads" / "config.json").read_text())
    assert config["quality"] == trained.quality.as_dict()
    assert config["adapter_recipe"]["rank"] == 4
    assert model.base.adapter == config["adapter"]

    opened = chatty_model()
    heads = open_heads(opened, str(tmp_path / "heads"))
    assert heads is not None
    assert heads.adapter == opened.base.adapter == config["adapter"]
    merged, plain = (one.base.causal_lm.state_dict() for one in (opened, chatty_model()))
    changed = {name for name, weight in merged.items() if not torch.equal(weight, plain[name])}
    assert len(changed) == 2 * 7
    assert all("_proj." in name for name in changed)
    # What was judged at the end of training is what answers.
    judged = model.base.causal_lm.state_dict()
    assert all(torch.equal(weight, judged[name]) for name, weight in merged.items())
    assert Session(opened, heads).info.model == "chatty+adapter"


def test_heads_of_another_base_are_refused(tmp_path: Path) -> None:
    train(tmp_path)
    other = chatty_model()
    other.base.causal_lm.model.norm.weight.data += 1
    with pytest.raises(HeadsMismatch, match="were trained for test/chatty"):
        open_heads(other, str(tmp_path / "heads"))


@pytest.mark.parametrize("where", ["dialogues", "training"])
def test_interrupted_anywhere_it_ends_at_the_same_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    monkeypatch.setattr(loop, "_STEPS_BETWEEN_REPORTS", 3)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    interrupting = replace(
        silent_listener(), **{"on_report" if where == "training" else "on_dialogues": stop}
    )
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "interrupted", listener=interrupting)
    assert not (tmp_path / "interrupted" / "heads" / "config.json").exists()
    train(tmp_path / "interrupted")
    train(tmp_path / "straight")
    resumed, straight = (
        load_heads(tmp_path / name / "heads").state_dict() for name in ("interrupted", "straight")
    )
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    assert any(tensor.abs().sum() > 0 for tensor in straight.values())


MEMORY = (
    "Training ran out of memory; run it again with a smaller --batch-size, "
    "a smaller --sequence-length or --quant 4bit."
)


@pytest.mark.parametrize("owner", [DialogueWriter, Medusa1])
def test_a_full_gpu_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type[Any]
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(owner, "write" if owner is DialogueWriter else "targets", fail)
    with pytest.raises(OutOfMemory) as caught:
        train(tmp_path)
    assert str(caught.value) == MEMORY


def test_a_full_machine_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DialogueWriter, "write", lambda *_: torch.empty(2**55))
    with pytest.raises(OutOfMemory) as caught:
        train(tmp_path)
    assert str(caught.value) == MEMORY


def test_other_errors_are_not_taken_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DialogueWriter, "write", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        train(tmp_path)


def test_a_disk_full_at_the_end_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(heads: MedusaHeads, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MedusaHeads, "save", fail)
    with pytest.raises(CheckpointError) as caught:
        train(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'heads'} can't be written (No space left on device); "
        "see to that and run the same command again."
    )
    monkeypatch.undo()
    train(tmp_path, listener=Listener(lambda *_: None, lambda report: pytest.fail("trained again")))
    assert load_heads(tmp_path / "heads").num_heads == 2


def test_where_the_heads_go_is_tried_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heads").write_text("a file where the folder should be")
    monkeypatch.setattr(DialogueWriter, "write", lambda *_: pytest.fail("began"))
    with pytest.raises(CheckpointError, match=r"heads can't be written \(File exists\)"):
        train(tmp_path)


def test_dialogues_longer_than_the_context_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        train(tmp_path, replace(RECIPE, sequence_length=300))
    assert str(caught.value) == (
        "Dialogues of 300 tokens are longer than the model's context of 256; use a smaller --sequence-length."
    )


def test_too_few_answers_are_told_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(MedusaError) as caught:
        train(tmp_path, replace(RECIPE, num_tokens=24, sequence_length=8))
    assert str(caught.value) == (
        f"The dialogues in {tmp_path / 'work' / 'data'} hold too few answers to learn from; remove that "
        "folder and run train with more --tokens or a longer --sequence-length, or choose a chat model."
    )


def test_more_heads_than_the_answers_can_teach_are_told_how_many_can(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        train(tmp_path, replace(RECIPE, num_heads=60))
    found = re.fullmatch(
        r"The answers in .*/data are long enough for (\d+) heads, not for 60; .*", str(caught.value)
    )
    assert found is not None
    possible = int(found[1])
    assert f"use --heads {possible}, or remove that folder" in str(caught.value)
    train(tmp_path, replace(RECIPE, num_heads=possible))
    assert load_heads(tmp_path / "heads").num_heads == possible


@pytest.mark.parametrize("what", ["LM head", "embedding"])
def test_a_model_whose_ends_have_another_size_is_refused(tmp_path: Path, what: str) -> None:
    model = chatty_model()
    causal_lm = model.base.causal_lm
    if what == "LM head":
        causal_lm.lm_head = torch.nn.Linear(16, model.base.vocab_size, bias=False)
    else:
        causal_lm.set_input_embeddings(torch.nn.Embedding(model.base.vocab_size, 16))
    with pytest.raises(UnsupportedModel) as caught:
        train(tmp_path, model=model)
    assert str(caught.value) == (
        f"Heads can't be trained for this model: they share its {what}, whose size is 16 where its hidden "
        "states have 32; choose a model that projects neither."
    )
    assert not (tmp_path / "work").exists()
