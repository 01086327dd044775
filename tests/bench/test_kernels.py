"""Kernels without a GPU: counts, rooflines, occupancy; with one, that timing them works."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from medusa_chat import cli
from medusa_chat.bench import kernels
from medusa_chat.bench.cards import CARDS, Resources
from medusa_chat.bench.random_model import random_linear
from medusa_chat.records import Quantization

RTX_3090, RTX_4090 = CARDS
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(
    ("registers", "shared_kilobytes", "num_warps", "warps"),
    [
        (32, 0, 4, 48),  # all of them
        (64, 0, 4, 32),  # 8 warps' registers in each of 4 partitions
        (65, 0, 4, 28),  # a warp's registers come in steps of 256: 7 in each
        (255, 0, 8, 8),
        (40, 48, 4, 8),  # two blocks' shared memory
        (40, 50, 4, 4),  # 1 KB more each than the programmer's
        (40, 100, 4, 0),
        (32, 0, 1, {"RTX 3090": 16, "RTX 4090": 24}),  # as many blocks as there may be
    ],
)
def test_occupancy_is_that_of_nvidias_calculator(
    registers: int, shared_kilobytes: int, num_warps: int, warps: int | dict[str, int]
) -> None:
    taken = Resources(registers, shared_kilobytes * 1024, num_warps)
    for card in CARDS:
        expected = warps[card.name] if isinstance(warps, dict) else warps
        assert taken.occupancy(card) == pytest.approx(expected / 48)


def test_the_roofline_is_the_slower_of_memory_and_products() -> None:
    num_bytes = 4096 * 4096 * 9 // 16
    by_memory = kernels.roofline(1, 4096, 4096, num_bytes)
    assert by_memory == pytest.approx({"RTX 3090": num_bytes / 936e3, "RTX 4090": num_bytes / 1008e3})
    # 64 rows take a 3090 longer to multiply than to read; 33 count as many as 64.
    by_products = kernels.roofline(33, 4096, 4096, num_bytes)
    assert by_products["RTX 3090"] == pytest.approx(2 * 64 * 4096 * 4096 / 71e6)
    assert by_products == kernels.roofline(64, 4096, 4096, num_bytes)


@pytest.mark.parametrize("quantization", ["4bit", "8bit", "none"])
def test_the_kernels_get_the_librarys_weights(quantization: Quantization) -> None:
    pytest.importorskip("triton")
    from medusa_chat.kernels.linear import linear_reference
    from medusa_chat.model.packed import pack_modules

    layer = random_linear(96, 128, quantization, torch.device("cpu"), torch.bfloat16)
    x = torch.randn(5, 128, dtype=torch.bfloat16)
    expected = layer(x).float()
    packed = pack_modules([layer], torch.bfloat16)
    torch.testing.assert_close(
        linear_reference(x, packed)[0], expected, atol=0.02 * float(expected.abs().max()), rtol=0
    )


def test_registers_are_counted_for_cards_that_are_not_here() -> None:
    pytest.importorskip("triton")
    from triton.compiler import ASTSource

    from medusa_chat.bench.compiled import resources_on
    from tests.bench.doubling import double

    signature = {"x": "*fp32", "out": "*fp32", "size": "i32", "BLOCK": "constexpr"}
    small, large = (ASTSource(double, signature, {"BLOCK": block}, {}) for block in (128, 4096))
    few = resources_on(RTX_3090, small, {"num_warps": 4, "num_stages": 3, "debug": False})
    many = resources_on(RTX_4090, large, {"num_warps": 4, "num_stages": 3, "debug": False})
    assert 4 < few.registers < many.registers
    assert (few.num_warps, few.shared_bytes, few.spilled_bytes) == (4, 0, 0)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("quantization", ["4bit", "8bit", "none"])
def test_each_contender_is_timed(quantization: Quantization, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "ROWS", (1, 16))
    device, dtype = torch.device("cuda"), torch.bfloat16
    contenders = kernels.linear_contenders(512, 256, quantization, device, dtype)
    rows = kernels._time_linear(contenders, 256, 512, device, dtype, 1e12)
    assert [row["rows"] for row in rows] == [1, 16]
    for row in rows:
        assert set(row["us"]) == {contender.name for contender in contenders}
        assert min(row["us"].values()) > 0
        (compiled,) = row["compiled"]
        assert compiled["RTX 3090"]["registers"] > 0


def run(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(("bench", "kernels", *arguments))
    return exit_.value.code


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_gpu_there_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 1
    assert capsys.readouterr().err == "bench kernels needs a CUDA device, and none was found here.\n"


REPORT: dict[str, Any] = {
    "shape": "tinyllama",
    "weights": "random weights",
    "quantization": "4bit",
    "dtype": "bfloat16",
    "machine": "a GPU",
    "bandwidth": 1e12,
    "linears": [
        {
            "linear": "o",
            "outputs": 2048,
            "inputs": 2048,
            "rows": 4,
            "us": {"medusa-chat": 10.0, "cuBLAS": 20.04},
            "bytes": 2_500_000,
            "share_of_bandwidth": 0.25,
            "roofline_us": {"RTX 3090": 3.0, "RTX 4090": 2.0},
            "compiled": [
                {
                    "kernel": "rows",
                    "RTX 3090": {
                        "registers": 99,
                        "shared_bytes": 2048,
                        "spilled_bytes": 8,
                        "occupancy": 0.25,
                    },
                    "RTX 4090": {
                        "registers": 98,
                        "shared_bytes": 2048,
                        "spilled_bytes": 0,
                        "occupancy": 0.5,
                    },
                }
            ],
        }
    ],
    "attention": [
        {"context": 100, "rows": 1, "us": {"torch": 5.0}, "bytes": 1_000_000, "share_of_bandwidth": 0.2}
    ],
}


def test_the_report_reads_as_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernels, "measure_kernels", lambda *arguments: REPORT)
    assert run("--dtype", "bfloat16") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "o 2048×2048 4 10.0 20.0 2.5 25% 3.0 2.0" in lines
    assert "100 1 5.0 1.0 20%" in lines
    assert lines[-1].startswith("o 4 rows 99 registers, 8 bytes spilled, 2.0 KB, 25% of warps 98 registers,")
    assert run("--dtype", "bfloat16", "--json") == 0
    assert json.loads(capsys.readouterr().out) == REPORT
