"""AdamW in 8 bits, which bitsandbytes can do on a CPU too: it learns, and goes on from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medusa_chat.errors import UsageError
from medusa_chat.training import medusa1, optimizer
from medusa_chat.training.optimizer import adamw, moment_bytes
from tests.training.test_medusa1 import Stop, assert_same_bits, save_always, trainer

CPU, GPU = torch.device("cpu"), torch.device("cuda")
__all__ = ["save_always"]  # a fixture


@pytest.fixture
def eight_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, and for weights as few as these too."""
    real = optimizer._eight_bit_adamw()
    monkeypatch.setattr(optimizer, "_eight_bit_adamw", lambda: lambda *a, **k: real(*a, **k, min_8bit_size=1))
    monkeypatch.setattr(medusa1, "adamw", lambda *arguments: adamw(*arguments[:-1], GPU))


def test_the_kind_follows_from_the_device_and_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    assert type(adamw([weight], 1.0, 0.0, CPU)) is torch.optim.AdamW
    assert type(adamw([weight], 1.0, 0.0, GPU)).__name__ == "AdamW8bit"
    assert (moment_bytes(CPU), moment_bytes(GPU)) == (8, 2)
    monkeypatch.setattr(optimizer, "_eight_bit_adamw", lambda: None)
    assert moment_bytes(GPU) == 8


@pytest.mark.usefixtures("eight_bit", "save_always")
def test_in_eight_bits_it_learns_and_goes_on_where_it_was(tmp_path: Path) -> None:
    losses: list[float] = []

    def stop(step: int) -> None:
        if step == 10:
            raise Stop

    straight, heads = trainer(tmp_path / "straight")
    straight.run(lambda report: losses.append(report.loss))
    assert losses[-1] < 0.8 * losses[0]
    moments = next(iter(straight._optimizer.state.values()))
    assert moments["state1"].dtype == torch.uint8

    interrupted, _ = trainer(tmp_path / "interrupted")
    with pytest.raises(Stop):
        interrupted.run(lambda report: stop(report.step))
    again, resumed = trainer(tmp_path / "interrupted")
    assert again.step == 10
    again.run(lambda report: None)
    assert_same_bits(resumed.state_dict(), heads.state_dict())


@pytest.mark.usefixtures("save_always")
def test_a_checkpoint_of_another_optimiser_is_refused(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    one, _ = trainer(tmp_path)
    one.run(lambda report: None)
    request.getfixturevalue("eight_bit")
    with pytest.raises(UsageError, match="with optimizer = AdamW, not AdamW8bit; use the same"):
        trainer(tmp_path)
