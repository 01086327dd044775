"""Threads that run one compiled function together: units of work taken one by one, and a meeting after each
phase.

Units are taken, not shared out beforehand: where another program takes one processor for a while, the others
do its part. Whoever waits at a meeting spins, since the next phase is a microsecond away, but lets others run
when it takes longer: beside a program that takes a tenth of two processors a forward took a tenth longer.
Sleeping instead, so that a thread which has lost its processor could have this one, made that 40%.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from medusa_chat.kernels.cpu.compiling import inner
from medusa_chat.kernels.cpu.host import IS_X86

_SPINS = 2000  # some 50 µs
_NUM_THREADS = torch.get_num_threads()  # torch has one only within a step (LeanModel.undisturbed)
_LINE = 8  # int64 in a cache line: a counter each


def progress(num_phases: int) -> np.ndarray[Any, Any]:
    """(1 + phases, 8) int64: how often threads have arrived at meetings, and each phase's units taken."""
    return np.zeros((1 + num_phases, _LINE), np.int64)


@inner()
def take(progress, phase):
    """The number of the next unit of this phase that nobody has taken."""
    return _add(progress, (phase + 1) * _LINE)


@inner()
def meet(progress, phase, num_threads):
    """Waits until all threads have done this phase. Returns the next one's number."""
    _add(progress, 0)
    spins = 0
    while _read(progress, 0) < (phase + 1) * num_threads:
        spins += 1
        if spins < _SPINS:
            _pause()
        else:
            _yield_processor()
    return phase + 1


@intrinsic
def _add(_, progress, place):
    """Atomically adds 1 to a counter; returns what it was."""

    def generate(context, builder, signature, arguments):
        pointer = _counter(context, builder, signature, arguments)
        return builder.atomic_rmw("add", pointer, ir.Constant(ir.IntType(64), 1), "acq_rel")

    return types.int64(progress, place), generate


@intrinsic
def _read(_, progress, place):
    def generate(context, builder, signature, arguments):
        pointer = _counter(context, builder, signature, arguments)
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(progress, place), generate


def _counter(context, builder, signature, arguments):
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])


@intrinsic
def _pause(_):
    def generate(context, builder, signature, arguments):
        if IS_X86:
            _call(builder, "llvm.x86.sse2.pause", ir.VoidType())
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _yield_processor(_):
    def generate(context, builder, signature, arguments):
        if os.name == "posix":
            _call(builder, "sched_yield", ir.IntType(32))
        return context.get_dummy_value()

    return types.void(), generate


def _call(builder, name, result):
    builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, []), name), [])


@cache
def team() -> Team:
    """The one that all kernels share."""
    return Team(_NUM_THREADS)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=team.cache_clear)  # which has none of its threads


class Team:
    """The calling thread and num_threads - 1 others, which sleep between calls."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._starts = [threading.Semaphore(0) for _ in range(num_threads - 1)]
        self._lock = threading.Lock()
        self._job: tuple[Callable[..., None], tuple[Any, ...]] | None = None
        for number, start in enumerate(self._starts, start=1):
            threading.Thread(target=self._work, args=(number, start), daemon=True).start()

    def run(self, function: Callable[..., None], num_phases: int, *arguments: Any) -> None:
        """Runs function(thread, num_threads, progress, *arguments) in all threads. It is compiled, holds no
        lock of Python's and ends with a meeting. Calls from several threads wait for each other.
        """
        # New at each call: a thread may still be on its way out of the last meeting.
        job = (function, (self.num_threads, progress(num_phases), *arguments))
        with self._lock:
            self._job = job
            for start in self._starts:
                start.release()
            function(0, *job[1])

    def _work(self, number: int, start: threading.Semaphore) -> None:
        while True:
            start.acquire()
            assert self._job is not None
            function, arguments = self._job
            function(number, *arguments)
