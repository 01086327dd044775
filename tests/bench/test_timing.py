"""The stopwatches, by a clock that the test moves; on a GPU also by the real one."""

from __future__ import annotations

import pytest
import torch

from medusa_chat.bench.timing import copy_bandwidth, graph_seconds, median_seconds, num_copies


def test_the_median_leaves_out_warm_ups_and_outliers() -> None:
    now = 0.0
    durations = iter([50.0, 50.0, 50.0, 2.0, 9.0, 1.0, 3.0, 2.0])

    def run() -> None:
        nonlocal now
        now += next(durations)

    assert median_seconds(run, 5, lambda: now) == 2.0
    assert next(durations, None) is None


@pytest.mark.parametrize("num_bytes", [1000, 8 * 2**20, 2**30])
def test_copies_together_exceed_any_cache(num_bytes: int) -> None:
    copies = num_copies(num_bytes)
    assert copies >= 2
    assert copies * num_bytes >= 2 * 96 * 2**20
    assert copies == 2 or (copies - 1) * num_bytes < 256 * 2**20


def test_a_copy_moves_its_bytes_twice() -> None:
    assert 1e8 < copy_bandwidth(torch.device("cpu")) < 1e12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_times_one_call() -> None:
    bandwidth = copy_bandwidth(torch.device("cuda"))
    sources = [torch.ones(2**27, dtype=torch.uint8, device="cuda") for _ in range(num_copies(2**27))]
    target = torch.empty_like(sources[0])
    seconds = graph_seconds([lambda source=source: target.copy_(source) for source in sources])
    assert seconds == pytest.approx(2 * 2**27 / bandwidth, rel=0.3)
