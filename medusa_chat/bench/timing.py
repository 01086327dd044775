"""Stopwatches: medians of many runs, of calls replayed in a CUDA graph, and the memory's measured speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

_WARM_UPS = 3
# Together the copies of what a call reads must not fit a cache: the largest of a consumer card has 96 MB.
_ROTATED_BYTES = 256 * 2**20
_MIN_CALLS = 32  # of one graph, so that starting it weighs little
_COPIED_BYTES = {"cuda": 2**30, "cpu": 2**28}


def median_seconds(
    run: Callable[[], object], num_runs: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Of a run that ends when its work is done, after a few that aren't counted."""
    for _ in range(_WARM_UPS):
        run()
    seconds = []
    for _ in range(num_runs):
        started = clock()
        run()
        seconds.append(clock() - started)
    return statistics.median(seconds)


def num_copies(num_bytes: int) -> int:
    """Copies of num_bytes to go through in turn, so that each is read from memory again."""
    return max(2, -(-_ROTATED_BYTES // num_bytes))


def graph_seconds(calls: Sequence[Callable[[], object]], num_replays: int = 30) -> float:
    """Median seconds of one of the calls, each on a copy of its own, run one after another in a CUDA graph.

    Between two calls there is what a graph takes to start the next kernel, about a microsecond, as there is
    in the engine's steps.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:  # compiles and allocates what may not be captured
            call()
    torch.cuda.current_stream().wait_stream(stream)
    rounds = -(-_MIN_CALLS // len(calls))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for call in calls:
                call()
    return _median_device_seconds(graph.replay, num_replays) / (rounds * len(calls))


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second that a large copy moves, read and written: the practical limit of the memory."""
    source = torch.ones(_COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> object:
        return target.copy_(source)

    seconds = _median_device_seconds(copy, 10) if device.type == "cuda" else median_seconds(copy, 10)
    return 2 * source.nbytes / seconds


def _median_device_seconds(enqueue: Callable[[], object], num_runs: int) -> float:
    """By the device's own clock, each run on its own."""
    seconds: list[float] = []
    for number in range(_WARM_UPS + num_runs):
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        started.record()
        enqueue()
        ended.record()
        ended.synchronize()
        if number >= _WARM_UPS:
            seconds.append(started.elapsed_time(ended) / 1000)
    return statistics.median(seconds)
