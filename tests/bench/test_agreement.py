"""Reading a reply with two caches tells what decoding with the other one would give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from medusa_chat import cli
from medusa_chat.bench.agreement import Reading, greedy_reply, read, summarise
from medusa_chat.decoding.generate import generate, new_context
from medusa_chat.decoding.planning import plain_plan
from medusa_chat.model.base import BaseModel
from medusa_chat.model.lean import lean
from medusa_chat.records import KVPrecision, SamplingOptions
from tests.tiny import tiny_llama
from tests.training.chatty import save_chatty_model

PROMPTS = [[(i * step) % 61 + 3 for i in range(20)] for step in range(1, 13)]
ROUNDING = 20  # steps in 1: so coarse that some replies change


def reply_of(base: BaseModel, prompt: list[int], kv_cache: KVPrecision) -> list[int]:
    options = SamplingOptions(temperature=0.0, max_tokens=60)
    context = new_context(base, None, kv_cache)
    steps = generate(base, None, context, prompt, lambda: options, lambda _: plain_plan())
    return [token for step in steps for token in step.ids]


def in_common(first: list[int], second: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), len(first))


def test_what_is_read_is_what_decoding_gives() -> None:
    base = lean(tiny_llama())
    replies = [greedy_reply(base, prompt, 60) for prompt in PROMPTS]
    readings = [
        read(base, prompt, reply, "8bit", base.logits) for prompt, reply in zip(PROMPTS, replies, strict=True)
    ]
    decoded = [
        in_common(reply, reply_of(base, prompt, "8bit"))
        for prompt, reply in zip(PROMPTS, replies, strict=True)
    ]
    assert [int(reading.agrees.int().cumprod(0).sum()) for reading in readings] == decoded
    assert 0 < sum(length == 60 for length in decoded) < len(PROMPTS)
    assert all(0 < float(reading.divergence.mean()) < 0.1 for reading in readings)


def test_so_it_is_with_another_lm_head() -> None:
    base, other = tiny_llama(), tiny_llama()
    rounded = (ROUNDING * base.lm_head_weight).round() / ROUNDING
    other.causal_lm.lm_head.weight = torch.nn.Parameter(rounded, requires_grad=False)  # no longer tied
    replies = [greedy_reply(base, prompt, 60) for prompt in PROMPTS]
    readings = [
        read(base, prompt, reply, "full", lambda hidden: F.linear(hidden, rounded))
        for prompt, reply in zip(PROMPTS, replies, strict=True)
    ]
    decoded = [
        in_common(reply, reply_of(other, prompt, "full"))
        for prompt, reply in zip(PROMPTS, replies, strict=True)
    ]
    assert [int(reading.agrees.int().cumprod(0).sum()) for reading in readings] == decoded
    assert 0 < sum(length == 60 for length in decoded) < len(PROMPTS)


def test_the_full_cache_is_as_near_to_itself_as_can_be() -> None:
    base = lean(tiny_llama())
    reading = read(base, PROMPTS[0], greedy_reply(base, PROMPTS[0], 20), "full", base.logits)
    assert bool(reading.agrees.all())
    assert float(reading.divergence.abs().max()) == 0


def test_the_summary() -> None:
    alike, parted = torch.tensor([True, True]), torch.tensor([True, False, True, True])
    readings = [Reading(alike, torch.tensor([0.1, 0.2])), Reading(parted, torch.tensor([0.0, 0.9, 0.0, 0.0]))]
    assert summarise(readings) == {
        "replies": 2,
        "identical": 1,
        "agreement": pytest.approx(5 / 6),
        "tokens_in_common": 1.5,
        "tokens_a_reply": 3.0,
        "divergence": pytest.approx(0.2),
    }


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_tells_it_of_a_cache_in_8_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    save_chatty_model(tmp_path)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "What is it ?"}\n{"prompt": "Why is it ?"}\n')
    given = ["--model", str(tmp_path), "--dtype", "float32", "--device", "cpu", "--prompts", str(prompts)]
    given += ["--max-tokens", "20", "--generate-limit", "0", "--kv-cache", "8bit"]
    with pytest.raises(SystemExit) as exit_:
        cli.main(("bench", *given, *(["--json"] if as_json else [])))
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    if as_json:
        report = json.loads(out)
        assert (report["kv_cache"], report["identical"], report["agreement"]["replies"]) == ("8bit", 2, 2)
        assert report["agreement"]["agreement"] > 0.8
    else:
        assert "none, float32, KV cache 8bit" in out
        assert " of 2 replies identical" in out
