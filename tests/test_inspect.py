"""`medusa-chat inspect`: folders, files, names; what it says of each layout, and that it reads no weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from medusa_chat import cli
from tests.model.families import EXACT, LONG_WINDOW, REFUSED, WINDOW
from tests.model.layouts import KnownHeads, write_a, write_b, write_c, write_d, write_e
from tests.model.test_head_layouts import Bomb
from tests.tiny import tiny_llama
from tests.training.chatty import save_chatty_model

Capture = pytest.CaptureFixture[str]
KNOWN = KnownHeads.random(5, 2)
LM_HEADS = {f"lm_heads.{head}.weight": KNOWN.lm_heads[head, :9] for head in range(5)}


def inspect(*arguments: str | Path) -> int:
    """The exit status of `inspect` run in this process."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["inspect", *map(str, arguments)])
    return exit_.value.code if isinstance(exit_.value.code, int) else 0


def report(target: str | Path, capsys: Capture) -> dict[str, Any]:
    assert inspect(target, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("write", "form", "lm_head"),
    [
        (lambda folder: write_a(folder, KNOWN), "A", "one each"),
        (lambda folder: write_c(folder, KNOWN), "C", "the base's"),
        (
            lambda folder: write_d(
                folder, KNOWN, bias=True, lm_heads={**LM_HEADS, "token_map": torch.arange(9)}, truncated=9
            ),
            "D",
            "one each",
        ),
        (lambda folder: write_e(folder, KNOWN, lm_heads=True), "E", "one each"),
    ],
)
def test_heads(
    tmp_path: Path, capsys: Capture, write: Callable[[Path], Path], form: str, lm_head: str
) -> None:
    found = report(write(tmp_path / "heads"), capsys)
    heads = found["heads"]
    assert (found["model"], found["base"]) == (None, None)
    assert (heads["format"], heads["heads"], heads["layers"], heads["kind"]) == (form, 5, 2, "block")
    assert (heads["lm_head"], heads["hidden_size"], heads["dtype"]) == (lm_head, 32, "float32")
    shapes = heads["tensors"].values()
    assert [32, 32] in shapes
    if form == "A":
        assert heads["tensors"]["4.2.weight"] == [64, 32]
        assert heads["parameters"] == sum(map(torch.Size.numel, map(torch.Size, shapes)))
        assert heads["memory_bytes"] == 2 * heads["parameters"]
        assert heads["fits"]["vocabulary"] == 64
        assert "says medusa_num_heads 2" in heads["remarks"][0]
    if form == "C":
        assert heads["fits"]["base"] == "some/base"
    if form == "D":
        assert (heads["vocabulary"], heads["fits"]["vocabulary_at_least"]) == (9, 9)


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_a_model_that_holds_its_heads(tmp_path: Path, capsys: Capture, suffix: str) -> None:
    save_chatty_model(tmp_path)
    write_b(tmp_path, tiny_llama().causal_lm.state_dict(), KNOWN, suffix)
    found = report(tmp_path, capsys)
    base, heads = found["base"], found["heads"]
    assert (heads["format"], heads["heads"], heads["layers"], heads["dtype"]) == ("B", 5, 2, "float16")
    assert (base["architecture"], base["layers"], base["hidden_size"]) == ("LlamaForCausalLM", 2, 32)
    assert base["parameters"] == tiny_llama().causal_lm.num_parameters()
    sizes = base["memory_bytes"]
    assert sizes["none"] == 2 * base["parameters"]
    assert sizes["4bit"] < sizes["8bit"] < sizes["none"]


def test_a_base_alone_and_a_file(tmp_path: Path, capsys: Capture) -> None:
    save_chatty_model(tmp_path / "base")
    capsys.readouterr()
    found = report(tmp_path / "base", capsys)
    assert found["heads"] is None
    assert report(tmp_path / "base" / "model.safetensors", capsys)["base"]["model_type"] == "llama"
    assert inspect(tmp_path / "base") == 0
    assert "heads: none" in capsys.readouterr().out
    file = write_a(tmp_path / "heads", KNOWN) / "medusa_lm_head.pt"
    assert report(file, capsys)["heads"]["format"] == "A"


def test_a_name(default_model_here: str, capsys: Capture) -> None:
    found = report(default_model_here, capsys)
    assert found["model"]["here"] is True
    assert found["base"]["vocabulary"] == 49152
    heads = found["heads"]
    assert (heads["format"], heads["heads"], heads["kind"]) == ("medusa-chat", 5, "path")
    assert heads["fits"]["base"] == found["model"]["base"]
    assert heads["fits"]["models"] == [default_model_here]


def test_a_name_that_is_not_here_tells_its_heads(capsys: Capture) -> None:
    assert inspect("smollm2-135m") == 0
    printed = capsys.readouterr().out
    assert "medusa-chat pull smollm2-135m" in printed
    assert "kind                 path" in printed
    assert "base:" not in printed


def test_what_is_neither_is_refused(tmp_path: Path, capsys: Capture) -> None:
    assert inspect("vicuna-8b") == 1
    assert "There is no model 'vicuna-8b'" in capsys.readouterr().err
    assert inspect(tmp_path) == 1
    assert capsys.readouterr().err.startswith(f"{tmp_path} holds neither a model nor Medusa heads")
    note = tmp_path / "note.txt"
    note.write_text("Dear")
    assert inspect(note) == 1
    assert capsys.readouterr().err.startswith(f"{note} is no weight file")


def test_control_characters_of_a_config_stay_away(tmp_path: Path, capsys: Capture) -> None:
    write_c(tmp_path, KNOWN)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "base_model_name_or_path": "\x1b[2Jevil"}))
    assert inspect(tmp_path) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_it_runs_nothing(tmp_path: Path, capsys: Capture) -> None:
    torch.save({"0.0.linear.weight": Bomb(tmp_path / "exploded")}, tmp_path / "medusa_lm_head.pt")
    assert inspect(tmp_path) == 1
    assert capsys.readouterr().err.startswith(
        f"{tmp_path}/medusa_lm_head.pt holds something other than tensors"
    )
    assert not (tmp_path / "exploded").exists()


def heads_of_a_7b(num_heads: int = 5) -> dict[str, list[int]]:
    names = {f"{head}.0.linear.weight": [4096, 4096] for head in range(num_heads)}
    return names | {f"{head}.1.weight": [32000, 4096] for head in range(num_heads)}


def write_empty_safetensors(file: Path) -> None:
    header, end = {}, 0
    for name, shape in heads_of_a_7b().items():
        size = 2 * shape[0] * shape[1]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        os.truncate(stream.fileno(), 8 + len(encoded) + end)


def write_empty_pickle(file: Path) -> None:
    tensors = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in heads_of_a_7b().items()}
    with torch.serialization.skip_data():
        torch.save(tensors, file)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read as Linux tells it")
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("medusa_lm_head.safetensors", write_empty_safetensors),
        ("medusa_lm_head.pt", write_empty_pickle),
    ],
)
def test_it_reads_no_weights(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    """Heads of a 7B: 1.5 GB that take no room on the disk and none in memory."""
    write(tmp_path / name)
    assert (tmp_path / name).stat().st_size > 1.4e9
    program = (
        "import re, sys\nfrom pathlib import Path\nfrom medusa_chat.commands.inspect import examine\n"
        "found = examine(sys.argv[1])['heads']\n"
        "assert 'transformers' not in sys.modules\n"
        # Not getrusage, which counts what the parent had taken.
        "peak = re.search(r'VmHWM:\\s*(\\d+) kB', Path('/proc/self/status').read_text())\n"
        "print(found['memory_bytes'], int(peak[1]) // 1024)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    num_bytes, megabytes = map(int, ended.stdout.split())
    weights = sum(2 * rows * columns for rows, columns in heads_of_a_7b().values())
    assert num_bytes == pytest.approx(weights, rel=0.001)  # and biases
    assert megabytes < 800  # of torch itself


BROKEN = {
    "cut": ("medusa_lm_head.pt", b"PK\x03\x04 and nothing more"),
    "empty": ("medusa_lm_head.safetensors", b""),
    "no shard": ("model.safetensors.index.json", b'{"weight_map": {"a": "model-1.safetensors"}}'),
    "config": ("config.json", b"{"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_what_is_broken_is_one_sentence(
    tmp_path: Path, capsys: Capture, case: str, options: tuple[str, ...]
) -> None:
    name, content = BROKEN[case]
    if case == "config":
        write_c(tmp_path, KNOWN)
    (tmp_path / name).write_bytes(content)
    assert inspect(tmp_path, *options) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert str(tmp_path) in printed.err
    assert printed.err.count("\n") == 1


def test_a_model_on_the_hub_tells_before_it_is_fetched_what_it_takes(capsys: Capture) -> None:
    found = report("vicuna-7b", capsys)
    model = found["model"]
    assert (found["base"], found["heads"], model["here"], model["tried"]) == (None, None, False, False)
    assert model["heads"].startswith("hub:FasterDecoding/medusa-vicuna-7b-v1.3@")
    sizes = model["memory_bytes"]
    assert sizes["4bit"] < sizes["8bit"] < sizes["none"] == 2 * model["parameters"]
    assert inspect("vicuna-7b") == 0
    printed = capsys.readouterr().out
    assert "3.77 GB at --quant 4bit" in printed
    assert "medusa-chat pull vicuna-7b" in printed
    assert report("me/mine", capsys)["model"]["memory_bytes"] is None


def test_how_a_model_will_run(tmp_path: Path, capsys: Capture) -> None:
    """What the config tells; weights of any name do."""

    def base(name: str, config: Any) -> dict[str, Any]:
        config.save_pretrained(tmp_path / name)
        save_file({"a": torch.zeros(1)}, tmp_path / name / "model.safetensors")
        found: dict[str, Any] = report(tmp_path / name, capsys)["base"]
        return {key: found.get(key) for key in ("decoder", "windows", "longest_conversation", "refused")}

    window = {"sliding_attention": WINDOW}
    gemma = {"decoder": "transformers'", "windows": window, "longest_conversation": None, "refused": None}
    assert base("gemma3", EXACT["gemma3"]()) == gemma
    mistral = {"decoder": "our own", "windows": {}, "longest_conversation": LONG_WINDOW, "refused": None}
    assert base("mistral", EXACT["mistral, windows"]()) == mistral
    assert "linear_attention" in base("mamba", REFUSED["mamba"][0]())["refused"]
    assert inspect(tmp_path / "gemma3") == 0
    assert "windows              3 tokens in layers of type sliding_attention" in capsys.readouterr().out
