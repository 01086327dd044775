"""Several processes that train together, on the CPU as on GPUs: they end where one alone does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from medusa_chat.errors import MedusaError
from medusa_chat.model.head_files import load_heads
from medusa_chat.training import launching
from medusa_chat.training.launching import num_to_launch, run_on_each
from medusa_chat.training.workers import ALONE, Workers, join_workers
from tests.training.test_run import train as train_alone

PART = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from medusa_chat.training import memory
from medusa_chat.training.recipe import SELF_DISTILLED
from medusa_chat.training.run import Training
from medusa_chat.training.workers import join_workers
from tests.training.chatty import chatty_model, silent_listener
from tests.training.test_run import RECIPE

torch.set_num_threads(1)
workers = join_workers("cpu")
assert (workers.count, torch.distributed.get_backend()) == (2, "gloo")
memory._WRITTEN_AT_ONCE_CPU = int(sys.argv[3])
folder = Path(sys.argv[1])
second = replace(SELF_DISTILLED, rank=4, alpha=4, epochs=1, dropout=0.0) if sys.argv[2] == "2" else None
trained = Training(
    chatty_model(), RECIPE, folder / "work", folder / "heads", silent_listener(), (), second, workers
).run()
assert (trained is None) == (workers.index == 1)
"""


def test_two_end_at_the_same_heads_as_one(tmp_path: Path) -> None:
    """Dialogues in four shards, two of each worker; a batch of four, two dialogues of each."""
    straight = tmp_path / "straight"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medusa_chat.training.memory._WRITTEN_AT_ONCE_CPU", 6)
        assert train_alone(straight) is not None
    assert run_on_each(2, [sys.executable, "-c", PART, str(tmp_path / "two"), "1", "6"]) == 0
    shards = [sorted((tmp_path / name / "work" / "data").glob("shard*")) for name in ("straight", "two")]
    assert [file.name for file in shards[0]] == [file.name for file in shards[1]]
    assert len(shards[0]) == 4
    assert all(one.read_bytes() == two.read_bytes() for one, two in zip(*shards, strict=True))
    one, two = (load_heads(tmp_path / name / "heads") for name in ("straight", "two"))
    assert one.config["steps"] == two.config["steps"] == 8
    for name, weight in one.state_dict().items():
        # Gradients are summed up in another order; Adam's first steps make much of little.
        torch.testing.assert_close(two.state_dict()[name], weight, atol=2e-3, rtol=0)
    assert not torch.equal(next(two.parameters()), torch.zeros_like(next(two.parameters())))


def test_two_train_an_adapter_too(tmp_path: Path) -> None:
    assert run_on_each(2, [sys.executable, "-c", PART, str(tmp_path), "2", "16"]) == 0
    heads = load_heads(tmp_path / "heads")
    assert heads.config["quality"]["perplexity_ratio"] == pytest.approx(1.0, abs=0.05)
    assert (tmp_path / "heads" / "adapter" / "adapter_model.safetensors").exists()


def test_a_share_is_every_nth_dialogue() -> None:
    rows = torch.arange(7)
    assert [Workers(index, 3).share(rows).tolist() for index in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert ALONE.share(rows).tolist() == rows.tolist()


def test_a_process_that_nobody_launched_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert join_workers("cpu") is ALONE


@pytest.mark.parametrize(
    ("device", "num_gpus", "local_rank", "launched"),
    [
        ("auto", 2, None, 2),
        ("cuda", 4, None, 4),
        ("auto", 1, None, 0),
        ("cpu", 2, None, 0),
        ("auto", 2, "1", 0),
    ],
)
def test_it_launches_one_for_each_of_several_gpus(
    monkeypatch: pytest.MonkeyPatch, device: str, num_gpus: int, local_rank: str | None, launched: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert num_to_launch(device) == launched  # type: ignore[arg-type]


FAILS = """
import os, sys, time
rank = os.environ["LOCAL_RANK"]
assert os.environ["WORLD_SIZE"] == "2" and os.environ["MASTER_PORT"]
if rank == sys.argv[1]:
    print(f"{rank} can't go on.", file=sys.stderr)
    sys.exit(3)
print(f"{rank} waits.", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("failing", ["0", "1"])
def test_when_one_fails_all_end_and_its_words_are_shown(
    capfd: pytest.CaptureFixture[str], failing: str
) -> None:
    assert run_on_each(2, [sys.executable, "-c", FAILS, failing]) == 3
    out, err = capfd.readouterr()
    assert out in ({"0": ("",), "1": ("0 waits.\n", "")}[failing])
    assert err == f"{failing} can't go on.\n"


def test_ctrl_c_leaves_them_time_to_end(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(processes: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, "_first_failure", interrupt)
    slow = "import time; time.sleep(0.5); print('ended by itself')"
    assert run_on_each(2, [sys.executable, "-c", slow]) == 130
    assert capfd.readouterr().out == "ended by itself\n"  # process 0 alone speaks


LAUNCHER = """
import sys
from medusa_chat.training.launching import run_on_each
sleep = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
sys.exit(run_on_each(2, [sys.executable, "-c", sleep]))
"""


def test_what_ends_the_launcher_ends_all() -> None:
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        first = psutil.Process(int(launcher.stdout.readline()))
        both = psutil.Process(launcher.pid).children()
        assert first in both
        launcher.terminate()
        assert psutil.wait_procs(both, timeout=40)[1] == []
        assert launcher.wait() == 130


def test_a_process_that_was_killed_is_told_of() -> None:
    suicide = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(MedusaError) as caught:
        run_on_each(2, [sys.executable, "-c", suicide])
    assert str(caught.value) == (
        "A training process was ended by signal 9, perhaps for want of memory; run the same command again to "
        "go on."
    )
