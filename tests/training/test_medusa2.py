"""Medusa-2 on a tiny random base and its own greedy replies: what moves, what stays, how it resumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from medusa_chat.errors import MedusaError, UsageError
from medusa_chat.model.base import BaseModel
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.path_heads import PathHeads
from medusa_chat.training import loop, medusa2
from medusa_chat.training.loop import TrainingReport
from medusa_chat.training.medusa1 import medusa1_loop
from medusa_chat.training.medusa2 import Medusa2, medusa2_loop
from medusa_chat.training.quality import Quality, compare, read
from medusa_chat.training.recipe import LABELS, SELF_DISTILLED, AdapterRecipe, Recipe
from medusa_chat.training.targets import gather_targets
from tests.tiny import tiny_llama
from tests.training.test_quality import greedy_dialogues

RECIPE = Recipe(num_heads=2, batch_size=4, epochs=30, warmup_steps=3, learning_rate=1e-2)
ADAPTER_RECIPE = replace(
    SELF_DISTILLED, rank=4, alpha=4, epochs=10, warmup_steps=3, learning_rate=2e-3, heads_speed=4.0
)
ROWS = torch.arange(4)


class Stop(BaseException):
    """As a Ctrl+C would."""


def learner(
    adapter_recipe: AdapterRecipe = ADAPTER_RECIPE,
    *,
    base: BaseModel | None = None,
    heads: MedusaHeads | None = None,
) -> Medusa2:
    """About 8 dialogues of the base itself."""
    base = base or tiny_llama()
    torch.manual_seed(5)
    heads = heads or PathHeads.fresh(RECIPE.num_heads, 1, 32, base.hidden_size)
    return Medusa2(base, heads, greedy_dialogues(base), RECIPE, adapter_recipe)


def nudge(one: Medusa2) -> None:
    """As if the adapter had learnt something."""
    torch.manual_seed(6)
    with torch.no_grad():
        for weight in one.adapter.weights.values():
            weight.add_(torch.randn_like(weight), alpha=0.05)


def weights_of(one: Medusa2) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in one.weights.items()}


def run(
    one: Medusa2, folder: Path, on_report: Callable[[TrainingReport], None] = lambda report: None
) -> None:
    folder.mkdir(exist_ok=True)
    medusa2_loop(one, folder).run(on_report)


def heads_loss(one: Medusa2, hidden: torch.Tensor) -> torch.Tensor:
    """Of all dialogues named in ROWS, slowly."""
    dialogues = one.dialogues
    targets = gather_targets(hidden, dialogues.ids[ROWS], dialogues.answer[ROWS], one.heads.num_heads)
    states = one.heads.rows(targets.hidden, one.base.embed(targets.path))
    total = torch.zeros(())
    for head in range(one.heads.num_heads):
        valid = targets.valid[head]
        logits = one.base.logits(states[head][valid])
        total = total + 0.8 ** (head + 1) * F.cross_entropy(logits, targets.ids[head][valid])
    return total


def test_self_distilled_loss_is_kl_from_the_base_and_growing_heads_loss() -> None:
    one = learner(replace(ADAPTER_RECIPE, dropout=0.0, heads_weight=0.5))
    ids, answer = one.dialogues.ids[ROWS].long(), one.dialogues.answer[ROWS]
    told = F.pad(answer[:, 1:], (0, 1))
    with torch.no_grad():
        teacher = one.base.logits(one.base.hidden_states(ids)[told]).log_softmax(-1)
        nudge(one)
        hidden = one.base.hidden_states(ids)
        found = one.base.logits(hidden[told]).log_softmax(-1)
        divergence = (teacher.exp() * (teacher - found)).sum(-1).mean()
        heads = heads_loss(one, hidden)
    assert divergence > 0.01
    for done, grown in ((0.0, 0.0), (1 / 3, 0.5), (1.0, 1.0)):
        torch.testing.assert_close(one.learn(ROWS, ROWS, done), divergence + 0.5 * grown * heads)


def test_loss_by_labels_is_cross_entropy_and_heads_loss() -> None:
    one = learner(replace(LABELS, dropout=0.0))
    nudge(one)
    ids, answer = one.dialogues.ids[ROWS].long(), one.dialogues.answer[ROWS]
    with torch.no_grad():
        hidden = one.base.hidden_states(ids)
        logits = one.base.logits(hidden[:, :-1][answer[:, 1:]])
        expected = F.cross_entropy(logits, ids[:, 1:][answer[:, 1:]]) + 0.2 * heads_loss(one, hidden)
    torch.testing.assert_close(one.learn(ROWS, ROWS, 0.0), expected)


def test_the_heads_loss_reaches_the_adapter_through_the_hidden_states() -> None:
    one = learner()
    head = next(iter(one.heads.parameters()))
    # At first the adapter changes nothing and KL is 0: what gradient there is comes from the heads.
    one.learn(ROWS, ROWS, 0.0)
    assert all(weight.grad.abs().max() < 1e-6 for weight in one.adapter.weights.values())
    one.learn(ROWS, ROWS, 1.0)
    ups = [weight for name, weight in one.adapter.weights.items() if "lora_B" in name]
    assert all(weight.grad.abs().max() > 1e-3 for weight in ups)
    assert head.grad is not None


def test_adapter_and_heads_learn_and_the_base_stays_as_it_is(tmp_path: Path) -> None:
    base = tiny_llama()
    base.causal_lm.requires_grad_(True)  # so that a gradient could reach it
    before = {name: tensor.clone() for name, tensor in base.causal_lm.state_dict().items()}
    one = learner(base=base)
    learnt_before = weights_of(one)
    run(one, tmp_path)
    assert not any(torch.equal(weight, learnt_before[name]) for name, weight in weights_of(one).items())
    one.adapter.take_off()
    assert all(parameter.grad is None for parameter in base.causal_lm.parameters())
    after = base.causal_lm.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def second_stage(adapter_recipe: AdapterRecipe, folder: Path) -> tuple[float, Quality]:
    """Medusa-1's heads, then Medusa-2: the heads' loss at the end and what became of the base."""
    base = tiny_llama()
    dialogues = greedy_dialogues(base)
    heads = BlockHeads.fresh(2, 1, base.hidden_size)
    folder.mkdir()
    medusa1_loop(base, heads, dialogues, RECIPE, folder).run(lambda report: None)
    before = read(base, dialogues)
    one = learner(replace(adapter_recipe, rank=4, alpha=4, dropout=0.0), base=base, heads=heads)
    run(one, folder)
    with torch.no_grad():
        loss = heads_loss(one, base.hidden_states(dialogues.ids[ROWS].long()))
    return float(loss), compare(before, read(base, dialogues), dialogues)


def test_heads_gain_by_it_and_distilling_keeps_the_base_as_it_was(tmp_path: Path) -> None:
    alone, same = second_stage(replace(ADAPTER_RECIPE, learning_rate=0.0), tmp_path / "alone")
    assert (same.ratio, same.identical) == (1.0, 1.0)
    gentle = replace(ADAPTER_RECIPE, heads_weight=0.03, epochs=60)
    together, kept = second_stage(gentle, tmp_path / "together")
    assert together < 0.5 * alone
    assert kept.ratio < 1.01
    forced, bent = second_stage(replace(gentle, heads_weight=10.0), tmp_path / "forced")
    assert forced < together
    assert bent.ratio > 1.1  # so KL is what kept it


def test_heads_learn_four_times_as_fast(tmp_path: Path) -> None:
    rates: list[list[float]] = []
    one = learner()
    running = medusa2_loop(one, tmp_path)
    groups = running._optimizer.param_groups

    def note(part: torch.Tensor, batch: torch.Tensor, done: float) -> torch.Tensor:
        rates.append([group["lr"] for group in groups])
        return Medusa2.learn(one, part, batch, done)

    one.learn = note  # type: ignore[method-assign]
    running.run(lambda report: None)
    assert len(rates) == running.num_steps == 20
    assert all(heads == pytest.approx(4 * adapter) for adapter, heads in rates)
    adapter = [pair[0] for pair in rates]
    assert max(adapter) == pytest.approx(2e-3)
    assert adapter[:3] == sorted(adapter[:3])
    assert adapter[3:] == sorted(adapter[3:], reverse=True)


@pytest.fixture
def save_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step."""
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)


@pytest.mark.usefixtures("save_always")
def test_interrupted_it_ends_at_the_same_weights(tmp_path: Path) -> None:
    """With dropout at work."""

    def stop(report: TrainingReport) -> None:
        raise Stop

    straight = learner()
    run(straight, tmp_path / "straight")
    interrupted = learner()
    with pytest.raises(Stop):
        run(interrupted, tmp_path / "interrupted", stop)
    torch.rand(3)  # another program's use of randomness
    again = learner()
    nudge(again)
    running = medusa2_loop(again, tmp_path / "interrupted")
    assert running.step == 10
    running.run(lambda report: None)
    expected = weights_of(straight)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(again).items())


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    run(learner(), tmp_path)
    with pytest.raises(UsageError, match=r"is of a training with adapter_rank = 4, not 8; use the same"):
        medusa2_loop(learner(replace(ADAPTER_RECIPE, rank=8)), tmp_path)
    medusa2_loop(learner(replace(ADAPTER_RECIPE, learning_rate=1e-5)), tmp_path)


@pytest.mark.usefixtures("save_always")
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    one = learner()
    running = medusa2_loop(one, tmp_path)
    weight = next(iter(one.adapter.weights.values()))
    weight.register_hook(lambda gradient: gradient * torch.nan if running.step == 5 else gradient)
    with pytest.raises(MedusaError, match=r"not a number at step 6; .* goes on from step 5 "):
        running.run(lambda report: None)
    again = learner()
    assert medusa2_loop(again, tmp_path).step == 5
    assert all(weight.isfinite().all() for weight in again.weights.values())


def test_with_little_memory_layers_run_again_and_the_gradients_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def learnt() -> tuple[int, list[torch.Tensor]]:
        one = learner()
        nudge(one)
        kept = 0

        def note(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            one.learn(ROWS, ROWS, 1.0)
        gradients = [weight.grad for weight in one.weights.values() if weight.grad is not None]
        one.adapter.take_off()
        assert not any(module.training for module in one.base.causal_lm.modules())
        return kept, gradients

    much, expected = learnt()
    monkeypatch.setattr(medusa2, "free_bytes", lambda device: 1000)
    little, gradients = learnt()
    assert little < 0.5 * much
    assert len(gradients) == len(expected)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_a_batch_without_answers_is_no_harm() -> None:
    one = learner()
    one.dialogues.answer[:] = False
    assert one.learn(ROWS, ROWS, 1.0) == 0.0
