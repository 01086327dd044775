"""`medusa-chat train` on a tiny model in a folder, and once on the real default model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medusa_chat import cli, paths
from medusa_chat.model.head_files import load_heads
from medusa_chat.training import loop, run
from medusa_chat.training.dialogues import DialogueWriter
from tests.training.chatty import save_chatty_model

SETTINGS = ("--tokens", "1600", "--sequence-length", "64", "--batch-size", "8", "--epochs", "1")
PROGRAM = (sys.executable, "-m", "medusa_chat.cli")


@pytest.fixture
def chatty(tmp_path: Path) -> Path:
    folder = tmp_path / "chatty"
    save_chatty_model(folder)
    return folder


def train(*arguments: str | Path) -> int:
    """The exit status of `train` run in this process."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", *map(str, arguments), "--device", "cpu", "--dtype", "float32"])
    return exit_.value.code if isinstance(exit_.value.code, int) else 0


def test_it_trains_reports_and_says_how_to_chat(chatty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(chatty, *SETTINGS) == 0
    out, err = capsys.readouterr()
    folder = paths.data_dir() / "heads" / "chatty"
    cleaned, *lines = out.splitlines()
    assert cleaned.startswith("Of ")
    assert lines[0].startswith("Accuracy on ")
    assert [line.split()[:2] for line in lines[1:6]] == [["head", str(head)] for head in (1, 2, 3, 4, 5)]
    assert [line.split()[:2] for line in lines[6:10]] == [
        [size, "nodes:"] for size in ("8", "16", "32", "64")
    ]
    assert (
        lines[10]
        == f"The heads are in {folder}. Chat with them: medusa-chat --model {chatty} --heads {folder}"
    )
    # And what `eval` says of them.
    measured = "\n".join(lines[11:])
    assert "chatty, path heads, 9 prompts" in measured
    assert [f"{size} " in measured for size in (4, 8, 16, 32, 64)] == [True] * 5
    assert "heads alone, by kind of prompt" in measured
    assert "dialogues 16/25" in err
    assert "dialogues 25/25" in err
    assert "step 2/2 loss " in err
    assert "Prompt 9 of 9…" in err
    recipe = json.loads((folder / "config.json").read_text())["recipe"]
    assert (recipe["num_tokens"], recipe["epochs"], recipe["batch_size"]) == (1600, 1, 8)
    assert load_heads(folder).num_heads == 5


def test_medusa2_reports_what_became_of_the_model(chatty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(chatty, *SETTINGS, "--medusa2", "self-distilled") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[11].startswith("Perplexity of the adapted model on ")
    assert lines[12].startswith("Of ")
    assert lines[13].startswith("The heads are in ")
    folder = paths.data_dir() / "heads" / "chatty"
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
    assert json.loads((folder / "config.json").read_text())["adapter"]


def test_heads_that_the_registry_names_need_not_be_there_yet(chatty: Path, tmp_path: Path) -> None:
    paths.config_dir().mkdir(parents=True)
    entry = {"base": "mine", "quantization": "none", "folder": chatty, "heads": tmp_path / "heads"}
    lines = ["[mine]", *(f'{key} = "{value}"' for key, value in entry.items())]
    (paths.config_dir() / "models.toml").write_text("\n".join(lines))
    assert train("mine", *SETTINGS, "--out", tmp_path / "heads") == 0
    assert load_heads(tmp_path / "heads").num_heads == 5


def test_prompts_are_used_and_broken_lines_named(
    chatty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "What is it ?"}\nnonsense\n{"turns": ["Why is it ?"]}\n{"prompt": 7}\n')
    assert train(chatty, *SETTINGS, "--prompts", prompts, "--out", tmp_path / "heads") == 0
    assert "Lines that hold no prompt were left out: 2 (line 2, 4)." in capsys.readouterr().err.splitlines()
    data = paths.cache_dir() / "training" / "chatty-none" / "data" / "recipe.json"
    assert json.loads(data.read_text())["prompts"] is not None
    assert (tmp_path / "heads" / "config.json").exists()


def test_a_prompts_file_that_is_not_there_costs_no_loading(
    chatty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("medusa_chat.engine.opening.open_model", lambda *_: pytest.fail("loaded"))
    assert train(chatty, "--prompts", tmp_path / "none.jsonl") == 2
    assert capsys.readouterr().err == f"{tmp_path / 'none.jsonl'} can't be read: No such file or directory.\n"


@pytest.mark.parametrize(
    ("option", "value"),
    [("--tokens", "0"), ("--epochs", "x"), ("--seed", str(2**64)), ("--learning-rate", "0")],
)
def test_values_out_of_range_are_wrong_usage(
    chatty: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert train(chatty, option, value) == 2
    assert f"Invalid value for '{option}'" in capsys.readouterr().err


def test_out_of_memory_is_one_sentence(
    chatty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore lines.")

    monkeypatch.setattr(DialogueWriter, "write", fail)
    assert train(chatty, *SETTINGS) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "Training ran out of memory; run it again with a smaller --batch-size, "
        "a smaller --sequence-length or --quant 4bit."
    )


def test_other_settings_are_refused_and_the_same_ones_go_on(
    chatty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(report: loop.TrainingReport) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    with monkeypatch.context() as patch:
        patch.setattr("medusa_chat.commands.progress._figures", interrupt)
        assert train(chatty, *SETTINGS) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "Stopped. Run the same command again to go on."

    assert train(chatty, *SETTINGS, "--epochs", "2") == 2
    assert "is of a training with epochs = 1, not 2; use the same settings" in capsys.readouterr().err
    assert train(chatty, *SETTINGS, "--seed", "2") == 2
    assert "holds dialogues written with seed = 0, not 2; use the same" in capsys.readouterr().err

    monkeypatch.setattr(run.DialogueWriter, "write", lambda *_: pytest.fail("wrote again"))
    assert train(chatty, *SETTINGS) == 0


@pytest.mark.skipif(os.name == "nt", reason="interrupts by signal")
def test_ctrl_c_says_that_the_same_command_goes_on(chatty: Path) -> None:
    many = ["--tokens", "10000000", "--sequence-length", "64", "--device", "cpu"]
    command = [*PROGRAM, "train", str(chatty), *many]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=alone, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("dialogues 16/"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "Stopped. Run the same command again to go on."
    assert "Traceback" not in err


@pytest.mark.slow
def test_the_real_model_gets_heads_that_the_engine_loads(default_model_here: str, tmp_path: Path) -> None:
    def program(*arguments: str) -> str:
        ended = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=True)
        return ended.stdout

    device = ["--device", "cpu", "--dtype", "float32"]
    settings = ["--tokens", "2000", "--sequence-length", "200", "--batch-size", "4", "--epochs", "2"]
    out = program("train", default_model_here, *settings, "--out", str(tmp_path), *device)
    assert "tokens a step to expect" in out
    # Other heads than the shipped ones, the same words.
    say = ["say", "--model", default_model_here, "--heads", str(tmp_path), "--temperature", "0", "--json"]
    report = json.loads(program(*say, "--tree-size", "8", *device, "What is the capital of France?"))
    assert report["text"] == "The capital of France is Paris."
    assert report["tree_size"] == 8
