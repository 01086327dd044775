"""Models and heads of a hub from the command line to their first words, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medusa_chat.engine.opening import fetch, open_heads, open_model
from medusa_chat.errors import CheckpointError, UnsupportedModel
from medusa_chat.records import LoadRequest
from tests.checkpoints import published
from tests.checkpoints.small_hub import Repo, SmallHub

ENTRY = """
[tiny]
base = "tiny/model"
quantization = "none"
chat_template = "package:vicuna"
heads = "hub:tiny/heads"
source = { repo = "tiny/model" }
"""


@pytest.fixture
def tiny_hub(hub: SmallHub, home: Path) -> SmallHub:
    """With a model of `.bin` shards, heads, and an entry for both in the user's models.toml."""
    hub.repos["tiny/model"] = Repo(published.as_bin(2))
    hub.repos["tiny/heads"] = Repo(published.heads_as_safetensors())
    file = home / "config" / "models.toml"
    file.parent.mkdir(parents=True)
    file.write_text(ENTRY)
    return hub


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medusa_chat.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def row(name: str) -> dict[str, object]:
    rows = json.loads(run("models", "--json").stdout)
    return next(row for row in rows if row["name"] == name)


def test_a_model_is_pulled_with_its_heads_and_then_needs_no_hub(tiny_hub: SmallHub) -> None:
    assert (row("tiny")["here"], row("tiny")["heads_here"]) == (False, False)
    pulled = run("pull", "tiny")
    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout.startswith("tiny is here now: ")
    assert pulled.stderr.splitlines() == [
        f"{what}…"
        for repo in ("tiny/model", "tiny/heads")
        for what in (f"Asking the hub for {repo}", f"Downloading {repo}")
    ]
    tiny_hub.requests.clear()
    assert run("pull", "tiny").stdout.startswith("tiny is here already: ")
    assert (row("tiny")["here"], row("tiny")["heads_here"]) == (True, True)

    options = ["--model", "tiny", "--device", "cpu", "--dtype", "float32", "--temperature", "0", "--json"]
    said = run("say", *options, "--max-tokens", "8", "--tree-size", "8", "Hello")  # no timing chose it
    assert said.returncode == 0, said.stderr
    reply = json.loads(said.stdout)
    plain = json.loads(run("say", *options, "--max-tokens", "8", "--plain", "Hello").stdout)
    assert reply["token_ids"] == plain["token_ids"]
    assert reply["tree_size"] == 8
    assert tiny_hub.requests == []


def test_a_pull_that_fails_says_why_in_one_line(tiny_hub: SmallHub) -> None:
    failed = run("pull", "tiny/gone")
    assert failed.returncode == 1
    asked, said = failed.stderr.splitlines()
    assert asked == "Asking the hub for tiny/gone…"
    assert said.startswith("The hub has no model tiny/gone")


def test_heads_that_can_not_be_fetched_are_told_before_the_model_is_loaded(tiny_hub: SmallHub) -> None:
    del tiny_hub.repos["tiny/heads"]
    with pytest.raises(CheckpointError, match="The hub has no model tiny/heads"):
        fetch(LoadRequest("tiny", device="cpu"), lambda progress: None)


def test_an_lm_head_that_needs_a_gpu_is_refused_before_anything_is_fetched(tiny_hub: SmallHub) -> None:
    asked = len(tiny_hub.requests)
    with pytest.raises(UnsupportedModel, match=r"on an NVIDIA GPU .* load this one with --lm-head full\.$"):
        fetch(LoadRequest("tiny", device="cpu", lm_head="4bit"), lambda progress: None)
    assert len(tiny_hub.requests) == asked


def test_heads_of_a_repository_may_be_asked_for(tiny_hub: SmallHub) -> None:
    model = open_model(LoadRequest("tiny/model", quantization="none", device="cpu"), lambda progress: None)
    assert open_heads(model, None) is None
    heads = open_heads(model, "hub:tiny/heads")
    assert heads is not None
    assert heads.num_heads == published.NUM_HEADS


def test_the_registrys_chat_template_is_used(tiny_hub: SmallHub, home: Path) -> None:
    model = open_model(LoadRequest("tiny", device="cpu"), lambda progress: None)
    message = [{"role": "user", "content": "Hello"}]
    text = model.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    assert text.startswith("<s>A chat between")
    assert text.endswith("USER: Hello ASSISTANT:")

    file = home / "config" / "models.toml"
    file.write_text(ENTRY.replace("package:vicuna", str(home / "gone.jinja")))
    with pytest.raises(CheckpointError, match=r"The chat template .*gone.jinja can't be read .*correct"):
        open_model(LoadRequest("tiny", device="cpu"), lambda progress: None)


def test_a_model_that_needs_its_own_program_is_refused(tiny_hub: SmallHub) -> None:
    config = json.loads(published.as_bin()["config.json"])
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "modeling_tiny.Config"}}
    files = {**published.as_bin(), **published.PROGRAM, "config.json": json.dumps(config).encode()}
    tiny_hub.repos["tiny/strange"] = Repo(files)
    with pytest.raises(UnsupportedModel, match="is not one that can be run here"):
        open_model(LoadRequest("tiny/strange", device="cpu"), lambda progress: None)
