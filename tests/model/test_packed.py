"""From modules to packed weights: nothing stays in memory twice."""

from __future__ import annotations

import pytest
import torch

from medusa_chat.bench.random_model import random_linear
from medusa_chat.model import packed
from medusa_chat.model.lasting import LastingMemory
from medusa_chat.model.packed import pack_modules, quantize_rows, rows_of
from medusa_chat.records import Quantization

CPU = torch.device("cpu")
LASTING = LastingMemory(CPU)


@pytest.mark.parametrize("quantization", ["4bit", "8bit", "none"])
def test_modules_give_away_what_is_held_packed(quantization: Quantization) -> None:
    modules = [random_linear(outputs, 128, quantization, CPU, torch.bfloat16) for outputs in (64, 32)]
    weight = pack_modules(modules, torch.bfloat16)
    assert weight.num_outputs == 96
    for module in modules:
        assert module.weight.numel() == 0
        assert getattr(module.weight, "quant_state", None) is None
        assert getattr(module, "quant_state", None) is None
        assert getattr(module.weight, "CB", None) is None


def test_one_whole_weight_is_taken_as_it_is() -> None:
    module = random_linear(64, 128, "none", CPU, torch.bfloat16)
    assert pack_modules([module], torch.bfloat16).data.data_ptr() == module.weight.data_ptr()


def test_some_rows_of_a_quantised_weight_are_those_rows_quantised() -> None:
    weight, bias = torch.randn(70, 128).bfloat16(), torch.randn(70)
    some = torch.tensor([3, 69, 12])
    rows, alone = (
        rows_of(quantize_rows(weight, LASTING, bias), some),
        quantize_rows(weight[some], LASTING, bias[some]),
    )
    assert rows.num_outputs == 3
    assert torch.equal(rows.data, alone.data)
    assert torch.equal(rows.dequantized(), alone.dequantized())
    assert rows.bias is not None
    assert torch.equal(rows.bias, bias[some])


def test_chosen_rows_are_quantised_as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, bias = torch.randn(90, 128).bfloat16(), torch.randn(90)
    some = torch.randperm(90)[:70]
    alone = quantize_rows(weight[some], LASTING, bias[some])
    monkeypatch.setattr(packed, "_ROWS_AT_ONCE", 32)
    chosen = quantize_rows(weight, LASTING, bias, some)
    assert chosen.num_outputs == 70
    assert chosen.bias is not None
    assert torch.equal(chosen.bias, bias[some])
    assert torch.equal(chosen.data, alone.data)
    assert torch.equal(chosen.dequantized(), alone.dequantized())


def test_rows_quantised_in_parts_are_those_quantised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(70, 128).bfloat16()
    at_once = quantize_rows(rows, LASTING)
    monkeypatch.setattr(packed, "_ROWS_AT_ONCE", 32)
    in_parts = quantize_rows(rows, LASTING)
    assert (in_parts.num_outputs, in_parts.num_inputs) == (70, 128)
    assert torch.equal(in_parts.data, at_once.data)
    assert torch.equal(in_parts.dequantized(), at_once.dequantized())
