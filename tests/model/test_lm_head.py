"""The LM head in 4 bits: its values, its rows for drafts, and what it takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("triton")

from medusa_chat.decoding.generate import Context, Step, generate
from medusa_chat.decoding.planning import Plan, fixed_plan, plain_plan
from medusa_chat.decoding.proposing import dynamic_candidates
from medusa_chat.model.base import BaseModel
from medusa_chat.model.fused import FusedModel
from medusa_chat.model.fused_heads import fused_heads
from medusa_chat.model.lasting import LastingMemory
from medusa_chat.model.packed import quantize_rows
from medusa_chat.records import SamplingOptions
from tests.tiny import random_path_heads, tiny_llama

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def small_model(*, is_tied: bool) -> BaseModel:
    """In float16: Triton's interpreter has no product in bfloat16."""
    causal_lm = tiny_llama(vocab_size=200, hidden_size=64).causal_lm.to(DEVICE, torch.float16)
    if not is_tied:
        causal_lm.lm_head.weight = nn.Parameter(causal_lm.lm_head.weight.clone(), requires_grad=False)
    return BaseModel(causal_lm)


@pytest.mark.parametrize("is_tied", [True, False])
@torch.inference_mode()
def test_logits_are_those_of_the_rounded_head(is_tied: bool) -> None:
    base = small_model(is_tied=is_tied)
    rounded = quantize_rows(base.lm_head_weight, LastingMemory(base.device))
    fused = FusedModel(base, "4bit")
    hidden = torch.randn(5, 64, device=DEVICE).half()
    logits = fused.logits(hidden)
    torch.testing.assert_close(logits, hidden.float() @ rounded.dequantized().T, rtol=2e-3, atol=2e-3)
    for row in range(5):
        assert torch.equal(fused.logits(hidden[row : row + 1])[0], logits[row])
    assert torch.equal(fused.draft_head(None)(hidden), logits)
    some = torch.tensor([3, 199, 17], device=DEVICE)
    torch.testing.assert_close(fused.draft_head(some)(hidden), logits[:, some])


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_whole_head_is_given_up_unless_it_is_the_embedding(is_tied: bool) -> None:
    full, base = FusedModel(small_model(is_tied=is_tied)), small_model(is_tied=is_tied)
    rounded = quantize_rows(base.lm_head_weight, LastingMemory(base.device))
    small = FusedModel(base, "4bit")
    assert small.num_bytes - full.num_bytes == rounded.num_bytes - (0 if is_tied else 2 * 200 * 64)
    head = base.causal_lm.get_output_embeddings().weight
    assert head.numel() == (200 * 64 if is_tied else 0)
    assert full.quantised_lm_head().weight.num_bytes == rounded.num_bytes


def test_drafts_change_no_token_beside_it() -> None:
    base = FusedModel(small_model(is_tied=True), "4bit")
    heads = fused_heads(random_path_heads(base, 2).half(), base)
    options, prompt = SamplingOptions(temperature=0.0, max_tokens=6), [5, 6, 7, 5, 6]

    def reply(plan: Plan) -> list[Step]:
        context = Context(base.new_cache())
        return list(generate(base, heads, context, prompt, lambda: options, lambda _: plan))

    plain = reply(plain_plan(DEVICE))
    drafted = reply(fixed_plan(dynamic_candidates(heads, DEVICE), 4))
    assert {step.num_nodes for step in drafted} == {0, 4}
    assert [token for step in drafted for token in step.ids] == [
        token for step in plain for token in step.ids
    ]
