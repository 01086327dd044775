"""Compiled Triton kernels: which ones a call launches, and what they would take on another card.

Triton and the assembler beside it compile for any card, so what a consumer card's blocks take is counted, not
guessed, even where there is none.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from medusa_chat.bench.cards import CARDS, Card, Resources

_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_KEPT_OPTIONS = ("num_warps", "num_stages", "maxnreg", "enable_fp_fusion")


def launched_kernels(call: Callable[[], object], module: ModuleType) -> list[Any]:
    """The compiled kernels of this module that one call launches, each once."""
    handles: set[int] = set()

    def note(launch: Any) -> None:
        handles.add(launch.get()["function"])

    knobs.runtime.launch_enter_hook.add(note)
    try:
        call()
    finally:
        knobs.runtime.launch_enter_hook.remove(note)
    functions = [value for value in vars(module).values() if isinstance(value, JITFunction)]
    caches = [cache[0] for function in functions for cache in function.device_caches.values()]
    return [kernel for cache in caches for kernel in cache.values() if kernel.function in handles]


def describe(kernel: Any) -> dict[str, Any]:
    """A compiled kernel as a report has it: what its blocks take on each card, and how many warps fit."""
    report: dict[str, Any] = {"kernel": kernel.name}
    for card in CARDS:
        taken = resources_on(card, kernel.src, kernel.metadata._asdict())
        report[card.name] = asdict(taken) | {"occupancy": taken.occupancy(card)}
    return report


def resources_on(card: Card, source: Any, options: dict[str, Any]) -> Resources:
    """What a kernel takes, compiled for this card. source: a CompiledKernel's `src`; options: as launched."""
    target = GPUTarget("cuda", card.capability, 32)
    kept = {name: options[name] for name in _KEPT_OPTIONS if name in options}
    kernel = triton.compile(source, target=target, options=kept)
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(kernel.asm["cubin"])
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(binary)]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = _USAGE.search(listing)
    assert usage is not None, listing
    registers, stack, _, local = map(int, usage.groups())
    return Resources(registers, kernel.metadata.shared, kernel.metadata.num_warps, stack + local)
