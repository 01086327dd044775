"""What 16 bits take from the logits: our kernels' sums against transformers' own, both against float32."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("triton")

from medusa_chat.model.base import BaseModel
from medusa_chat.model.fused import FusedModel
from tests.tiny import tiny_llama

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Triton's interpreter has no product in bfloat16.
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16


@pytest.mark.parametrize("seed", range(3))
@torch.inference_mode()
def test_logits_are_no_farther_from_float32_than_those_of_transformers(seed: int) -> None:
    # What both round alike, the weights, is rounded for the reference too.
    rounded = tiny_llama(vocab_size=200, hidden_size=64).causal_lm.to(DEVICE, DTYPE)
    exact = copy.deepcopy(rounded).float()
    torch.manual_seed(seed)
    ids = torch.randint(200, (1, 40), device=DEVICE)
    wanted = exact(ids).logits[0]
    theirs = rounded(ids).logits[0].float()
    fused = FusedModel(BaseModel(rounded))
    ours = fused.logits(fused.forward(ids, fused.new_cache())[0])
    assert 0 < float((ours - wanted).norm()) < float((theirs - wanted).norm())
