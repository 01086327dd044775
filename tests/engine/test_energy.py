"""Energy from drivers that are made up: counters that wrap, that nobody may read, that break."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medusa_chat.engine import energy
from medusa_chat.engine.energy import CardCounter, EnergyMeter, PackageCounter, energy_meter


def zone(folder: Path, name: str, kind: str, microjoules: int, largest: int = 1_000_000) -> Path:
    made = folder / name
    made.mkdir(parents=True, exist_ok=True)
    (made / "name").write_text(f"{kind}\n")
    (made / "energy_uj").write_text(f"{microjoules}\n")
    (made / "max_energy_range_uj").write_text(f"{largest}\n")
    return made / "energy_uj"


def test_packages_are_added_up_and_their_counters_may_wrap(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 5)
    zone(tmp_path, "intel-rapl:0:0", "core", 7)
    zone(tmp_path, "intel-rapl:2", "psys", 7)
    counter = PackageCounter(tmp_path)
    assert counter.read() == 0.0
    first.write_text("100000\n")  # round once
    second.write_text("500005\n")
    assert counter.read() == pytest.approx(0.7)
    first.write_text("300000\n")
    assert counter.read() == pytest.approx(0.9)


def test_where_nobody_tells_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(energy, "_POWERCAP", tmp_path / "none")
    assert energy_meter(cpu).source is None
    zone(tmp_path, "intel-rapl:0", "psys", 7)
    monkeypatch.setattr(energy, "_POWERCAP", tmp_path)
    meter = energy_meter(cpu)
    assert (meter.source, meter.mark(), meter.used(at_once=True)) == (None, None, None)
    file = zone(tmp_path, "intel-rapl:0", "package-0", 7)
    assert energy_meter(cpu).source == "package"
    file.write_text("not a number")  # as good as a file that root alone may read
    assert energy_meter(cpu).source is None
    assert energy_meter(torch.device("cuda")).source is None or torch.cuda.is_available()


class Counter:
    def __init__(self, *readings: float) -> None:
        self.readings = list(readings)

    def read(self) -> float:
        return self.readings.pop(0)


def test_joules_since_the_mark_are_read_a_few_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("medusa_chat.engine.energy.time.monotonic", lambda: now[0])
    meter = EnergyMeter("card", Counter(50.0, 53.0, 54.0, 60.0))
    assert meter.mark() == 0.0
    assert meter.used() is None
    now[0] += 0.5
    assert meter.used() == 3.0
    assert meter.used() is None
    assert meter.used(at_once=True) == 4.0
    assert meter.mark() == 0.0
    assert meter.used(at_once=True) is None  # the driver broke: it is not asked again
    assert meter.mark() is None


class NotSupported(Exception):
    pass


def nvml(**functions: Any) -> SimpleNamespace:
    return SimpleNamespace(
        NVMLError_NotSupported=NotSupported,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        **functions,
    )


def test_a_card_with_an_energy_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    library = nvml(nvmlDeviceGetTotalEnergyConsumption={"GPU-1": 123_456}.get)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert CardCounter("GPU-1").read() == pytest.approx(123.456)


def test_a_card_that_tells_its_power_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(card: str) -> int:
        raise NotSupported

    now, watts = [10.0], iter((200_000, 100_000))
    library = nvml(
        nvmlDeviceGetTotalEnergyConsumption=unsupported, nvmlDeviceGetPowerUsage=lambda card: next(watts)
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr("medusa_chat.engine.energy.time.monotonic", lambda: now[0])
    counter = CardCounter("GPU-1")
    now[0] = 10.5
    assert counter.read() == pytest.approx(100.0)
    now[0] = 12.5
    assert counter.read() == pytest.approx(300.0)
