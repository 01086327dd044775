"""Energy from drivers that are made up: counters that wrap, that nobody may read, that break."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch

from medusa_chat.engine import energy
from medusa_chat.engine.energy import CardCounter, EnergyMeter, PackageCounter, energy_meter
from tests.driver import NVMLErrorNotSupported, fake_nvml


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
    shortest = 0.2

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
    now[0] += 0.1
    assert meter.used(at_once=True) is None  # too soon to tell anything
    now[0] += 0.4
    assert meter.used() == 3.0
    assert meter.used() is None
    assert meter.used(at_once=True) == 4.0
    assert meter.mark() == 0.0
    now[0] += 0.5
    assert meter.used() is None  # the driver broke: it is not asked again
    assert meter.mark() is None


@pytest.mark.parametrize("reading", [50.0, 2.0], ids=["stands still", "begins anew"])
def test_a_counter_that_does_not_count_tells_nothing(reading: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("medusa_chat.engine.energy.time.monotonic", lambda: now[0])
    meter = EnergyMeter("card", Counter(50.0, reading))
    meter.mark()
    now[0] += 1.0
    assert meter.used() is None


def test_a_card_with_an_energy_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake_nvml(nvmlDeviceGetTotalEnergyConsumption=lambda handle: 2**40 + 123)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    with pytest.raises(OSError, match="NVML: Not Found"):
        CardCounter("card")
    assert module.num_open == 0
    assert CardCounter("GPU-1").read() == pytest.approx((2**40 + 123) / 1000)
    assert module.num_open == 1


def test_a_card_that_tells_its_power_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: object) -> None:
        raise NVMLErrorNotSupported("Not Supported")

    now, watts = [10.0], iter((200_000, 100_000))
    module = fake_nvml(
        nvmlDeviceGetTotalEnergyConsumption=fail, nvmlDeviceGetPowerUsage=lambda handle: next(watts)
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr("medusa_chat.engine.energy.time.monotonic", lambda: now[0])
    counter = CardCounter("GPU-1")
    now[0] = 10.5
    assert counter.read() == pytest.approx(100.0)
    now[0] = 12.5
    assert counter.read() == pytest.approx(300.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_card_tells_what_it_uses() -> None:
    """Whole watts of a card at work, the same by its energy and, near enough, by its power over the time."""
    device = torch.device("cuda")
    meter = energy_meter(device)
    assert meter.source == "card"
    by_power = CardCounter(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    keep_busy(device, 2.0)  # until its clocks and figures have followed
    started, before = time.monotonic(), by_power._power_over_time()
    assert meter.mark() == 0.0
    assert meter.used(at_once=True) is None  # too soon to tell
    for _ in range(8):
        keep_busy(device, 0.25)
        after = by_power._power_over_time()
    joules = meter.used(at_once=True)
    seconds = time.monotonic() - started
    assert joules is not None
    print(f"{torch.cuda.get_device_name()}: {joules / seconds:.0f} W, {(after - before) / seconds:.0f} W")
    assert 20 < joules / seconds < 2000
    assert joules == pytest.approx(after - before, rel=0.25)


def keep_busy(device: torch.device, seconds: float) -> None:
    """Multiplies large matrices for so long."""
    matrix = torch.randn(4096, 4096, dtype=torch.float16, device=device)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        torch.mm(matrix, matrix)
        torch.cuda.synchronize(device)
