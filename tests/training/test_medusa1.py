"""The trainer on a tiny random base: what it learns, what it leaves alone, and how it is interrupted."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medusa_chat import files
from medusa_chat.errors import CheckpointError, MedusaError, UsageError
from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.training import loop
from medusa_chat.training.dialogues import Dialogues
from medusa_chat.training.fresh import draft_vocabulary, fresh_heads
from medusa_chat.training.loop import TrainingLoop, TrainingReport
from medusa_chat.training.medusa1 import Medusa1, medusa1_loop
from medusa_chat.training.recipe import HeadKind, Recipe
from medusa_chat.training.targets import Targets
from tests.tiny import tiny_llama
from tests.training.chatty import periodic_dialogues

PERIOD = 7
RECIPE = Recipe(num_heads=3, epochs=5, batch_size=4, warmup_steps=3, learning_rate=3e-3)
KINDS: list[HeadKind] = ["block", "mlp", "path"]


class Stop(BaseException):
    """As a Ctrl+C would."""


def trainer(
    folder: Path, recipe: Recipe = RECIPE, dialogues: Dialogues | None = None, base: BaseModel | None = None
) -> tuple[TrainingLoop, MedusaHeads]:
    """25 steps by default."""
    base = base or tiny_llama()
    data = periodic_dialogues(20, 24, PERIOD) if dialogues is None else dialogues
    heads = fresh_heads(base, recipe, draft_vocabulary(data, recipe.vocabulary_share, base.vocab_size))
    folder.mkdir(exist_ok=True)
    return medusa1_loop(base, heads, data, recipe, folder), heads


def trained(folder: Path, recipe: Recipe = RECIPE) -> dict[str, torch.Tensor]:
    """Heads' weights after an uninterrupted run, or after going on from what `folder` holds."""
    one, heads = trainer(folder, recipe)
    one.run(lambda report: None)
    return heads.state_dict()


def assert_same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def save_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step."""
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_learn_a_periodic_sequence_at_every_depth(tmp_path: Path, kind: HeadKind) -> None:
    recipe = replace(RECIPE, head_kind=kind, num_heads=4, epochs=40, learning_rate=5e-3)
    base, data = tiny_llama(), periodic_dialogues(20, 40, PERIOD)
    one, heads = trainer(tmp_path, recipe, data, base)
    reports: list[TrainingReport] = []
    one.run(reports.append)
    assert reports[-1].step == reports[-1].num_steps == 200
    assert reports[-1].accuracy == [1.0] * 4
    # And without the code's own idea of targets: after …, t comes t + 1, the heads guess t + 2, t + 3, …
    ids = data.ids[:1].long()
    hidden = base.hidden_states(ids)[0]
    for row in range(3, 30):
        following = (int(ids[0, row]) + torch.arange(1, 6)) % PERIOD
        states = heads.rows(hidden[row : row + 1], base.embed(following[:4])[:, None])  # (4, 1, D)
        assert base.logits(states).argmax(-1)[:, 0].tolist() == following[1:].tolist()


def test_the_base_stays_as_it_is_and_gets_no_gradient(tmp_path: Path) -> None:
    base = tiny_llama()
    base.causal_lm.requires_grad_(True)  # so that a gradient could reach it
    before = {name: tensor.clone() for name, tensor in base.causal_lm.state_dict().items()}
    one, heads = trainer(tmp_path, base=base)
    one.run(lambda report: None)
    assert all(parameter.grad is None for parameter in base.causal_lm.parameters())
    assert_same_bits(base.causal_lm.state_dict(), before)
    assert all(parameter.abs().sum() > 0 for parameter in heads.parameters())


@pytest.mark.usefixtures("save_always")
@pytest.mark.parametrize(("kind", "stop_at"), [("block", 10), ("path", 10), ("path", 20)])
def test_interrupted_it_ends_at_the_same_heads(tmp_path: Path, kind: HeadKind, stop_at: int) -> None:
    recipe = replace(RECIPE, head_kind=kind)

    def stop(report: TrainingReport) -> None:
        if report.step == stop_at:
            raise Stop

    one, _ = trainer(tmp_path / "interrupted", recipe)
    with pytest.raises(Stop):
        one.run(stop)
    again, heads = trainer(tmp_path / "interrupted", recipe)
    assert again.step == stop_at
    again.run(lambda report: None)
    assert_same_bits(heads.state_dict(), trained(tmp_path / "straight", recipe))


KILLED = """
import sys
from pathlib import Path
import torch
from medusa_chat.training import loop
from tests.training.test_medusa1 import trainer

torch.set_num_threads(1)
loop._SECONDS_BETWEEN_CHECKPOINTS = -1.0
one, _ = trainer(Path(sys.argv[1]))
one.run(lambda report: print(report.step, flush=True))
"""


def test_killed_it_ends_at_the_same_heads(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "10\n"
        process.kill()
    again, heads = trainer(tmp_path / "killed")
    assert 10 <= again.step <= again.num_steps
    again.run(lambda report: None)
    assert_same_bits(heads.state_dict(), trained(tmp_path / "straight"))


@pytest.mark.usefixtures("save_always")
@pytest.mark.parametrize(
    ("fault", "raised"), [(Stop(), Stop), (OSError(28, "No space left on device"), CheckpointError)]
)
def test_a_checkpoint_half_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, raised: type[BaseException]
) -> None:
    saves = 0

    def fail_at_the_third(descriptor: int) -> None:
        nonlocal saves
        saves += 1
        if saves == 3:
            raise fault

    monkeypatch.setattr(files.os, "fsync", fail_at_the_third)
    one, _ = trainer(tmp_path)
    with pytest.raises(raised) as caught:
        one.run(lambda report: None)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert trainer(tmp_path)[0].step == 2
    if raised is CheckpointError:
        assert str(caught.value) == (
            f"{tmp_path / 'checkpoint.pt'} can't be written (No space left on device); "
            "see to that and run the same command again."
        )


def test_a_finished_training_is_finished(tmp_path: Path) -> None:
    weights = trained(tmp_path)
    one, heads = trainer(tmp_path)
    one.run(lambda report: pytest.fail("trained on"))
    assert_same_bits(heads.state_dict(), weights)


@pytest.mark.parametrize(
    "change",
    [
        {"num_heads": 2},
        {"head_kind": "mlp"},
        {"head_width": 0.5},
        {"num_layers": 1},
        {"epochs": 6},
        {"batch_size": 5},
        {"seed": 1},
        {"head_discount": 0.5},
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    trained(tmp_path)
    ((name, value),) = change.items()
    with pytest.raises(UsageError) as caught:
        trainer(tmp_path, replace(RECIPE, **change))
    assert str(caught.value) == (
        f"{tmp_path / 'checkpoint.pt'} is of a training with {name} = {getattr(RECIPE, name)}, not {value}; "
        "use the same settings, or remove that file to train anew."
    )


def test_a_checkpoint_of_other_dialogues_or_another_base_is_refused(tmp_path: Path) -> None:
    trained(tmp_path)
    with pytest.raises(UsageError, match=r"with dialogues = \w+, not \w+; use the same settings"):
        trainer(tmp_path, dialogues=periodic_dialogues(20, 24, PERIOD - 1))
    other = tiny_llama()
    other.causal_lm.model.norm.weight.data += 1
    with pytest.raises(UsageError, match=r"with base = \w+, not \w+; use the same settings"):
        trainer(tmp_path, base=other)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "other"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    trained(tmp_path)
    file = tmp_path / "checkpoint.pt"
    whole = file.read_bytes()
    if damage == "other":
        torch.save({"step": 3}, file)
    else:
        file.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"hello\n"}[damage])
    with pytest.raises(CheckpointError) as caught:
        trainer(tmp_path)
    assert str(caught.value) == f"{file} is damaged; remove it and run train again: the dialogues are kept."


@pytest.mark.usefixtures("save_always")
def test_a_loss_that_is_no_number_stops_with_the_step_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = trainer(tmp_path)
    _poison(monkeypatch, one, at_step=7)
    with pytest.raises(MedusaError) as caught:
        one.run(lambda report: None)
    assert str(caught.value) == (
        "The loss is not a number at step 7; run it again with a lower --learning-rate "
        f"or with --dtype float32, and it goes on from step 6 ({tmp_path / 'checkpoint.pt'})."
    )
    again, heads = trainer(tmp_path, replace(RECIPE, learning_rate=1e-4))
    assert again.step == 6
    assert all(parameter.isfinite().all() for parameter in heads.parameters())
    again.run(lambda report: None)
    assert again.step == again.num_steps


def test_the_step_is_told_though_nobody_looked_when_it_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = trainer(tmp_path)
    _poison(monkeypatch, one, at_step=14)  # the losses are looked at after step 20
    with pytest.raises(MedusaError, match=r"at step 14; .* and it starts anew\.$"):
        one.run(lambda report: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("save_always")
def test_heads_lost_in_the_last_update_are_not_saved(tmp_path: Path) -> None:
    one, heads = trainer(tmp_path)
    next(heads.parameters()).register_hook(
        lambda gradient: gradient * torch.nan if one.step == 2 else gradient
    )
    with pytest.raises(MedusaError, match=r"not a number at step 3; .* goes on from step 2 "):
        one.run(lambda report: None)
    assert trainer(tmp_path)[0].step == 2


def _poison(monkeypatch: pytest.MonkeyPatch, one: TrainingLoop, at_step: int) -> None:
    """The base's hidden states are not numbers in the batch of this step."""
    honest = Medusa1.targets

    def poisoned(learner: Medusa1, rows: torch.Tensor) -> Targets:
        targets = honest(learner, rows)
        if one.step + 1 == at_step:
            targets.hidden[0] = torch.nan
        return targets

    monkeypatch.setattr(Medusa1, "targets", poisoned)


def test_a_batch_without_answers_is_no_harm(tmp_path: Path) -> None:
    data = periodic_dialogues(20, 24, PERIOD)
    data.answer[:10] = False
    recipe = replace(RECIPE, batch_size=1, epochs=1)
    one, heads = trainer(tmp_path, recipe, data)
    one.run(lambda report: None)
    assert one.step == 20
    assert all(parameter.isfinite().all() for parameter in heads.parameters())


def test_the_learning_rate_rises_then_falls_to_nothing(tmp_path: Path) -> None:
    shares = [loop.share_of_peak(step, 3, 25) for step in range(25)]
    assert shares[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert shares[3:] == sorted(shares[3:], reverse=True)
    assert 0 < shares[-1] < 0.05

    one, heads = trainer(tmp_path, replace(RECIPE, epochs=1))
    rates = []
    next(heads.parameters()).register_hook(
        lambda gradient: rates.append(one._optimizer.param_groups[0]["lr"])
    )
    one.run(lambda report: None)
    assert rates == [RECIPE.learning_rate * loop.share_of_peak(step, 3, 5) for step in range(5)]
