"""How far an adapted model is its base: perplexity by hand, and agreement against replies really given."""

from __future__ import annotations

import math

import pytest
import torch

from medusa_chat.errors import UsageError
from medusa_chat.model.base import BaseModel
from medusa_chat.training.dialogues import Dialogues
from medusa_chat.training.quality import Reading, as_dialogues, compare, perplexity, read
from tests.tiny import tiny_llama
from tests.training.chatty import tiny_tokenizer

PROMPT, LENGTH = 6, 24


def greedy_dialogues(base: BaseModel, num_dialogues: int = 8) -> Dialogues:
    """Prompts of random tokens and the base's greedy replies to them."""
    torch.manual_seed(1)
    ids = torch.randint(3, base.vocab_size, (num_dialogues, PROMPT))
    for _ in range(PROMPT, LENGTH):
        hidden = base.forward(ids, base.new_cache())[:, -1:]
        ids = torch.cat([ids, base.logits(hidden).argmax(-1)], dim=1)
    answer = torch.zeros_like(ids, dtype=torch.bool)
    answer[:, PROMPT:] = True
    return Dialogues(ids.int(), answer, torch.ones(num_dialogues, dtype=torch.bool))


def nudged() -> BaseModel:
    """A model that is nearly tiny_llama()."""
    base = tiny_llama()
    base.causal_lm.model.layers[0].mlp.down_proj.weight.data.mul_(1.1)
    return base


def test_a_model_is_as_good_as_itself() -> None:
    base = tiny_llama()
    dialogues = greedy_dialogues(base)
    quality = compare(read(base, dialogues), read(base, dialogues), dialogues)
    assert (quality.ratio, quality.agreement, quality.identical) == (1.0, 1.0, 1.0)
    assert quality.num_replies == 8
    assert quality.tokens_in_common == quality.tokens_a_reply == LENGTH - PROMPT
    assert quality.num_tokens == 8 * (LENGTH - PROMPT)


def test_agreement_is_that_of_replies_really_given() -> None:
    base, other = tiny_llama(), nudged()
    dialogues, others = greedy_dialogues(base), greedy_dialogues(other)
    same = (dialogues.ids == others.ids)[:, PROMPT:]
    in_common = same.int().cumprod(1).sum(1)
    assert 0 < int(in_common.min()) < int(in_common.max())  # or this test shows nothing
    quality = compare(read(base, dialogues), read(other, dialogues), dialogues)
    assert quality.tokens_in_common == pytest.approx(float(in_common.float().mean()))
    assert quality.identical == pytest.approx(float((in_common == LENGTH - PROMPT).float().mean()))
    assert quality.identical < quality.agreement < 1.0


def test_each_answer_is_a_reply_and_sampled_ones_count_for_perplexity_alone() -> None:
    answer = torch.tensor([[0, 0, 1, 1, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    dialogues = Dialogues(torch.zeros(2, 8, dtype=torch.int32), answer, torch.tensor([True, False]))
    base = Reading(torch.full((2, 7), math.log(2.0)), torch.zeros(2, 7, dtype=torch.long))
    choice = torch.zeros(2, 7, dtype=torch.long)
    choice[0, 5] = 1  # the second reply's second token
    choice[0, 3] = 1  # no answer
    quality = compare(base, Reading(torch.full((2, 7), math.log(3.0)), choice), dialogues)
    assert (quality.base_perplexity, quality.perplexity) == (pytest.approx(2.0), pytest.approx(3.0))
    assert quality.num_tokens == 12
    assert (quality.num_replies, quality.tokens_a_reply, quality.tokens_in_common) == (2, 2.5, 1.5)
    assert (quality.agreement, quality.identical) == (pytest.approx(0.8), 0.5)
    assert quality.as_dict()["perplexity_ratio"] == 1.5


def test_perplexity_of_a_text() -> None:
    base, tokenizer = tiny_llama(), tiny_tokenizer()
    text = " ".join(f"w{20 + i * i % 40}" for i in range(50))
    pieces = as_dialogues(text, tokenizer, 16)
    assert pieces.ids.shape == (3, 16)
    surprise = []
    for ids in pieces.ids.long():
        log_probs = base.logits(base.forward(ids[None], base.new_cache())[0]).log_softmax(-1)
        surprise += [-float(log_probs[place, ids[place + 1]]) for place in range(15)]
    assert perplexity(read(base, pieces), pieces) == pytest.approx(math.exp(sum(surprise) / 45), rel=1e-4)
    with pytest.raises(UsageError, match="only 50 tokens; give one of at least 64"):
        as_dialogues(text, tokenizer, 64)
