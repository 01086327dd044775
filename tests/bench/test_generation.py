"""The reference of `bench`: transformers' generate() on the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medusa_chat import cli
from medusa_chat.bench.generation import Generated, generate_greedily, measure_generate
from medusa_chat.bench.speed import over_generate
from medusa_chat.engine.prompt import Prompter
from medusa_chat.engine.session import open_session
from medusa_chat.model.attention import GROUPED_ATTENTION
from medusa_chat.model.loading import load_base_model
from medusa_chat.prompt_file import UserPrompt
from medusa_chat.records import Chunk, Message, SamplingOptions
from tests.tiny import random_heads
from tests.training.chatty import chatty_model, save_chatty_model, tiny_tokenizer

PROMPTS = [UserPrompt("What is it ?"), UserPrompt("Why is it ?")]


def test_steps_are_timed_from_the_first_token_on() -> None:
    reply = Generated(times=[10.0, 12.0, 12.5, 14.5])  # the prompt, then three tokens
    assert reply.step_seconds == [0.5, 2.0]


def test_generate_says_what_plain_decoding_says(tmp_path: Path) -> None:
    request = save_chatty_model(tmp_path)
    session = open_session(request, lambda progress: None)
    session.options = SamplingOptions(temperature=0.0, max_tokens=20, drafting=False)
    messages = [Message("user", PROMPTS[0].text)]
    plain = [i for chunk in session.reply(messages) if isinstance(chunk, Chunk) for i in chunk.ids]
    base = load_base_model(tmp_path, "none", torch.device("cpu"), torch.float32)
    prompt = Prompter(tiny_tokenizer(), base.context_length).render(messages, 20)
    reply = generate_greedily(base.causal_lm, prompt.ids, 20)
    assert reply.ids[: len(plain)] == plain
    assert len(reply.step_seconds) == len(reply.ids) - 1
    assert base.config._attn_implementation == GROUPED_ATTENTION  # as it was


def test_rates_come_of_the_decode_steps(tmp_path: Path) -> None:
    request = save_chatty_model(tmp_path)
    info = open_session(request, lambda progress: None).info
    messages: list[str] = []
    report = measure_generate(request, info, PROMPTS, 9, lambda progress: messages.append(progress.message))
    assert report["prompts"] == 2
    assert report["tokens_per_second"] == pytest.approx(1000 / report["ms_per_step"])
    assert messages[-1] == "generate() 2 of 2"
    assert measure_generate(request, info, PROMPTS, 1, print)["tokens_per_second"] is None


@pytest.mark.parametrize(
    ("medusa", "generate", "speedup"), [(30.0, 10.0, 3.0), (None, 10.0, None), (30.0, None, None)]
)
def test_the_speedup_is_the_ratio_of_rates(
    medusa: float | None, generate: float | None, speedup: float | None
) -> None:
    report = over_generate({"medusa": {"tokens_per_second": medusa}}, {"tokens_per_second": generate})
    assert report["speedup_over_generate"] == speedup


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as exit_:
        cli.main(("bench", *arguments))
    return exit_.value.code, *capsys.readouterr()


def test_the_command_reports_generate_beside_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_chatty_model(tmp_path / "model")
    random_heads(chatty_model().base, 3).save(tmp_path / "heads")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": p.text}) + "\n" for p in PROMPTS))
    given = ("--model", str(tmp_path / "model"), "--heads", str(tmp_path / "heads"), "--dtype", "float32")
    given += ("--device", "cpu", "--prompts", str(prompts), "--max-tokens", "9")
    status, out, _ = run(capsys, *given, "--json", "--generate-limit", "1")
    report = json.loads(out)
    assert (status, report["prompts"], report["generate"]["prompts"]) == (0, 2, 1)
    assert report["speedup_over_generate"] > 0
    status, out, _ = run(capsys, *given, "--generate-limit", "0")
    assert status == 0
    assert "2 of 2 answers identical" in out
    assert "generate()" not in out


def test_options_before_a_sub_command_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--json", "step") == (
        2,
        "",
        "--json must come after step, if that command takes it.\n",
    )
