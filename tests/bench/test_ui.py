"""`bench ui`: the report holds together, on the real program; and imports nothing heavy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medusa_chat import cli
from medusa_chat.bench import scripted_engine, ui
from medusa_chat.bench.scripted_engine import SPEED_FILE, WORK_ROUNDS
from medusa_chat.bench.ui import SETTINGS, Extent, measure_ui, own_programs
from medusa_chat.commands.scripted_chat import PROGRAM

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")


@pytest.mark.slow
def test_the_report_holds_together() -> None:
    told: list[str] = []
    extent = Extent(starts=1, keys=3)
    report = measure_ui(own_programs(PROGRAM), extent, lambda progress: told.append(progress.message))
    assert list(report["typing"]) == [setting.name for setting in SETTINGS]
    for typing in report["typing"].values():
        assert 0 < typing["p50_ms"] <= typing["p99_ms"] <= typing["worst_ms"]
        assert 0 < typing["cpu_share"] < 2
    assert 0 < report["seconds_to"]["first_picture"] <= report["seconds_to"]["whole_picture"]
    engine = report["engine"]
    assert 0 < engine["lower_quartile"] <= engine["share_kept"] <= engine["upper_quartile"]
    assert len(told) == 2 + len(SETTINGS)
    json.dumps(report)


def test_a_key_is_timed_while_a_reply_streams() -> None:
    typing = ui.measure_typing(PROGRAM, SETTINGS[0], num_keys=3)
    assert 0 < typing["p50_ms"] <= typing["p99_ms"] <= typing["worst_ms"]
    assert typing["cpu_share"] > 0


def test_the_engine_computes_the_same_whether_it_says_it_or_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    computed: list[None] = []
    monkeypatch.setattr(scripted_engine, "_compute", lambda: computed.append(None))
    monkeypatch.setenv(SPEED_FILE, str(tmp_path / "speed"))
    said = list(scripted_engine._work())
    assert len(computed) == 2 * len(said)
    rounds = json.loads((tmp_path / "speed").read_text())
    assert [sorted(speeds) for speeds in rounds] == [["kept", "said"]] * WORK_ROUNDS


def _report(worst: float, kept: float) -> dict[str, Any]:
    typing = {"p50_ms": 4.0, "p99_ms": 30.0, "worst_ms": worst, "cpu_share": 0.21}
    engine = {
        "alone_tokens_per_second": 250.0,
        "with_chat_tokens_per_second": 250 * kept,
        "share_kept": kept,
        "lower_quartile": kept - 0.05,
        "upper_quartile": kept + 0.05,
    }
    return {
        "seconds_to": {"first_picture": 0.44, "whole_picture": 0.6},
        "typing": {"a fresh chat": typing},
        "engine": engine,
        "tokens_per_second": 200,
        "machine": "Linux x86_64, 2 cores",
        "python": "3.11",
        "load_before": 0.5,
    }


def test_the_table_says_what_met_its_goal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ui, "measure_ui", lambda *_: _report(51.0, 0.98))
    with pytest.raises(SystemExit, match="0"):
        cli.main(["bench", "ui"])
    rows = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows["until the first picture of the screen"].split()[-3:] == ["0.44", "s", "met"]
    assert rows["a key in a fresh chat, p50 / p99 / worst"].endswith("4 / 30 / 51 ms  missed")
    assert rows["the engine's speed that is kept"].split()[-2:] == ["98.0%", "met"]
    assert any(line.endswith("half of the turns kept 93.0% to 103.0%") for line in rows.values())
    with pytest.raises(SystemExit, match="0"):
        cli.main(["bench", "ui", "--json"])
    assert json.loads(capsys.readouterr().out) == _report(51.0, 0.98)


def test_nothing_heavy_is_imported() -> None:
    modules = "medusa_chat.bench.ui, medusa_chat.commands.bench_ui, medusa_chat.commands.scripted_chat"
    program = f"import sys, {modules}; print(*({{'torch', 'transformers', 'numpy'}} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""
