"""Joules that the processor of the model uses, as its driver tells them: of the whole graphics card or CPU
package, whatever else runs on it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar, Protocol

import torch

from medusa_chat.nvml import Card, NotSupported
from medusa_chat.records import EnergySource

_SECONDS_BETWEEN_READINGS = 0.5  # one takes a driver up to some milliseconds
_POWERCAP = Path("/sys/class/powercap")


class Counter(Protocol):
    """Joules since some moment. Where they can't be read it raises whatever its driver raises.

    shortest: seconds between two readings, below which their difference tells little.
    """

    @property
    def shortest(self) -> float: ...

    def read(self) -> float: ...


class CardCounter:
    """A graphics card by NVIDIA: its own energy counter, else its power over the time between readings."""

    shortest: ClassVar[float] = 0.5  # cards bring their figures up to date about ten times a second

    def __init__(self, uuid: str) -> None:
        """uuid: with its GPU-. Raises OSError if the driver is not there, does not know the card or won't
        tell.
        """
        self._card = Card(uuid)  # as long as the engine lives
        self._joules = 0.0
        self._read_at = time.monotonic()

    def read(self) -> float:
        try:
            return self._card.joules()
        except NotSupported:
            return self._power_over_time()

    def _power_over_time(self) -> float:
        watts, now = self._card.watts(), time.monotonic()
        self._joules += watts * (now - self._read_at)
        self._read_at = now
        return self._joules


class PackageCounter:
    """The CPU's packages by Linux' powercap, whose counters begin again at 0 after some minutes or hours."""

    shortest: ClassVar[float] = 0.01  # they are brought up to date a thousand times a second

    def __init__(self, folder: Path) -> None:
        """Raises OSError if the counters may not be read, ValueError if there are none."""
        zones = sorted(folder.glob("intel-rapl:*"))
        # Others lie within a package, or take in the whole machine.
        self._zones = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
        if not self._zones:
            raise ValueError(f"{folder} has no package")
        self._last = [_number(zone / "energy_uj") for zone in self._zones]
        self._microjoules = 0

    def read(self) -> float:
        for place, zone in enumerate(self._zones):
            now = _number(zone / "energy_uj")
            grown = now - self._last[place]
            self._microjoules += grown if grown >= 0 else grown + _number(zone / "max_energy_range_uj")
            self._last[place] = now
        return self._microjoules / 1e6


def _number(file: Path) -> int:
    return int(file.read_text())


class EnergyMeter:
    """Joules used since a mark; None where nobody tells them."""

    def __init__(self, source: EnergySource | None, counter: Counter | None) -> None:
        self.source = source
        self._counter = counter
        self._marked: float | None = None
        self._marked_at = 0.0
        self._read_at = 0.0

    def mark(self) -> float | None:
        """Begins anew: 0 joules, or None."""
        self._marked = self._read()
        self._marked_at = self._read_at
        return None if self._marked is None else 0.0

    def used(self, *, at_once: bool = False) -> float | None:
        """Since the mark. Also None where too little time has passed to tell, where the counter stands still
        or has begun anew and, unless it has to be at once, where the last reading is less than half a second
        old.
        """
        if self._counter is None or self._marked is None:
            return None
        since, shortest = self._read_at, _SECONDS_BETWEEN_READINGS
        if at_once:
            since, shortest = self._marked_at, self._counter.shortest
        if time.monotonic() - since < shortest:
            return None
        now = self._read()
        return now - self._marked if now is not None and now > self._marked else None

    def _read(self) -> float | None:
        self._read_at = time.monotonic()
        if self._counter is None:
            return None
        try:
            return self._counter.read()
        except Exception:  # a driver that fails once, and be it in its own way, isn't asked again
            self._counter = None
            return None


def energy_meter(device: torch.device) -> EnergyMeter:
    """Of the card or the CPU that the model is on."""
    source: EnergySource = "card" if device.type == "cuda" else "package"
    try:
        counter: Counter = (
            CardCounter(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
            if source == "card"
            else PackageCounter(_POWERCAP)
        )
        counter.read()
    except Exception:  # no library, no driver, no right to read: each says it in its own way
        return EnergyMeter(None, None)
    return EnergyMeter(source, counter)
