"""What the host makes of a step's numbers; the steps themselves need a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from medusa_chat.decoding.generate import Step
from medusa_chat.decoding.planning import TREE_SIZES
from medusa_chat.decoding.step_graphs import _Launched
from medusa_chat.records import BASE_ORIGIN, LOOKUP_ORIGIN

NUM_PLACES = 6  # W: drafts of up to five tokens


def read(num_heads: int, tokens: list[int], told: list[float]) -> Step:
    padded = tokens + tokens[-1:] * (NUM_PLACES - len(tokens))
    result = torch.tensor([len(tokens), *padded, *told], dtype=torch.float64)
    event: Any = SimpleNamespace(synchronize=lambda: None)
    return _Launched(16, event, result, NUM_PLACES, num_heads, TREE_SIZES).read(lambda: 0.25)


def test_a_dynamic_draft_tells_its_hopes_and_its_depth() -> None:
    hopes = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]
    step = read(2, [11, 12, 13, 14], [*hopes, 2.25, 4.0])
    assert (step.ids, step.num_nodes, step.seconds) == ([11, 12, 13, 14], 16, 0.25)
    assert (step.expected, step.outlook) == (2.25, dict(zip(TREE_SIZES, hopes, strict=True)))
    assert step.origins == [1, 2, LOOKUP_ORIGIN, BASE_ORIGIN]
    assert step.head_depth == 2  # the draft was deeper than heads reach
    assert read(5, [11], [*hopes, 2.25, 1.0]).head_depth == 1


def test_a_static_draft_and_plain_decoding_tell_tokens_only() -> None:
    step = read(3, [11, 12], [])
    assert (step.origins, step.head_depth) == ([1, BASE_ORIGIN], 3)
    assert (step.expected, step.outlook) == (None, None)
    plain = read(0, [11], [])
    assert (plain.ids, plain.origins, plain.head_depth) == ([11], [BASE_ORIGIN], 0)
