"""Whole steps on random weights: the report holds together, and the command prints it."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from medusa_chat import cli
from medusa_chat.bench import shapes, steps
from medusa_chat.bench.random_model import random_heads, random_model
from medusa_chat.decoding.generate import Context
from medusa_chat.records import Quantization
from tests.bench.shapes import GROUPED, TIED_WITH_BIAS

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _a_small_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "copy_bandwidth", lambda device: 1e9)


def test_the_report_holds_together(monkeypatch: pytest.MonkeyPatch) -> None:
    took = {1: [0.002, 0.003, 0.9], 8: [0.004, 0.006, 0.001], 4: [0.003]}
    monkeypatch.setattr(steps, "step_seconds", lambda base, heads, nodes, *context: took[nodes])
    report = steps.measure_steps(TIED_WITH_BIAS, "none", CPU, torch.float32, 100, [8, 4], lambda _: None)
    bytes_read = TIED_WITH_BIAS.bytes_read("none", 4, 100)
    plain = {"ms_per_step": 3, "bytes_read": bytes_read, "share_of_bandwidth": bytes_read / 0.003 / 1e9}
    assert report["plain"] == pytest.approx(plain)
    assert [tuple(row.values()) for row in report["steps"]] == [
        (1, 3, 1),
        (4, 3, 1),
        (8, 4, pytest.approx(4 / 3)),
    ]
    assert "random" in report["weights"]
    assert "generate" not in report
    assert report["memory_bytes"] > TIED_WITH_BIAS.vocab_size * TIED_WITH_BIAS.hidden_size * 4


@torch.inference_mode()
def test_steps_run_behind_the_context_asked_for() -> None:
    base = random_model(GROUPED, "none", CPU, torch.float32, 500)
    heads = random_heads(base, steps.NUM_HEADS)
    context = Context(base.new_cache())
    for nodes in (1, 8):
        seconds = steps.step_seconds(base, heads, nodes, context, 100)
        assert len(seconds) == 50
        assert min(seconds) > 0
        assert 150 <= len(context.ids) < 500


@pytest.mark.parametrize("quantization", ["4bit", "8bit", "none"])
def test_a_plain_step_reads_what_the_model_holds(quantization: Quantization) -> None:
    dtype = torch.bfloat16
    lm = random_model(GROUPED, quantization, CPU, dtype, 64).causal_lm
    held = lm.lm_head.weight.nbytes
    for name, parameter in lm.model.layers.named_parameters():
        if "norm" in name:
            continue
        held += parameter.nbytes
        state = getattr(parameter, "quant_state", None)
        held += state.absmax.nbytes if state is not None else 0
        scales = getattr(parameter, "SCB", None)
        held += scales.nbytes if scales is not None else 0
    assert GROUPED.bytes_read(quantization, 2, 0) == held
    cached = 10 * 2 * GROUPED.num_layers * GROUPED.num_kv_heads * GROUPED.head_dim * 2
    assert GROUPED.bytes_read(quantization, 2, 10) == held + cached
    whole, small = (GROUPED.bytes_read(quantization, 2, 0, lm_head=kind) for kind in ("full", "4bit"))
    assert whole - small == lm.lm_head.weight.numel() * (2 - 1 / 2 - 4 / 64)
    rows = 10 * 2 * GROUPED.num_layers * GROUPED.num_kv_heads
    assert GROUPED.bytes_read(quantization, 2, 10, "8bit") == held + rows * (GROUPED.head_dim + 4)


def run(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(("bench", "step", *arguments))
    return exit_.value.code


def test_the_command_prints_the_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = dataclasses.replace(GROUPED, name="tinyllama")
    monkeypatch.setitem(shapes.SHAPES, "tinyllama", tiny)
    given = ("--shape", "tinyllama", "--device", "cpu", "--context", "40", "--nodes", "4,2")
    assert run(*given, "--json", "--generate", "--quant", "none") == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["nodes"] for row in report["steps"]] == [1, 2, 4]
    assert report["generate"]["ms_per_step"] > 0
    assert (report["shape"], report["quantization"], report["context"]) == ("tinyllama", "none", 40)
    assert run(*given) == 0
    out = capsys.readouterr().out
    assert "nothing here tells how many drafts are accepted" in out
    assert [line.split()[0] for line in out.splitlines()[4:7]] == ["1", "2", "4"]


@pytest.mark.parametrize("nodes", ["", "8,x", "0", "65"])
def test_nodes_out_of_range_are_refused(nodes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--nodes", nodes) == 2
    assert "between 1 and 64" in capsys.readouterr().err
