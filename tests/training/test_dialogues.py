"""Dialogues as they are written: their beginnings, what is answered, how a token is drawn."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from medusa_chat.errors import UsageError
from medusa_chat.training import dialogues
from medusa_chat.training.dialogues import DialogueWriter, sample_rows
from medusa_chat.training.recipe import Recipe
from medusa_chat.training.template import turn_tokens
from tests.tiny import TableModel
from tests.training.chatty import END, TURN, chatty_model, tiny_tokenizer

RECIPE = Recipe(sequence_length=64)


def test_greedy_rows_are_the_argmax_among_hot_ones() -> None:
    logits = torch.randn(200, 50, generator=torch.Generator().manual_seed(3))
    temperature = torch.zeros(200)
    temperature[1::2] = 1.0
    drawn = sample_rows(logits, temperature, torch.Generator().manual_seed(0))
    same = drawn == logits.argmax(-1)
    assert same[::2].all()
    assert not same[1::2].all()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_are_those_of_the_softmax_without_its_tail(temperature: float) -> None:
    # Probabilities at temperature 1: the last two lie on either side of 0.05 of the best.
    weights = torch.tensor([1.0, 0.6, 0.3, 0.15, 0.06, 0.04])
    kept = [w ** (1 / temperature) for w in weights.tolist()]
    kept = [w if w >= 0.05 else 0.0 for w in kept]
    count = 20_000
    drawn = sample_rows(
        weights.log().expand(count, -1), torch.full((count,), temperature), torch.Generator().manual_seed(5)
    )
    counts = Counter(drawn.tolist())
    expected = [count * w / sum(kept) for w in kept]
    assert all(counts[token] == 0 for token, e in enumerate(expected) if e == 0)
    terms = [(counts[token] - e) ** 2 / e for token, e in enumerate(expected) if e > 0]
    freedom = len(terms) - 1
    # Wilson and Hilferty: this is a standard normal if the frequencies are right.
    normal = ((sum(terms) / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert normal < 3.1


def test_the_same_seed_writes_the_same_and_another_something_else() -> None:
    model = chatty_model()
    writer = DialogueWriter(model.base, model.tokenizer, RECIPE)
    first, second, other = writer.write(6, 1), writer.write(6, 1), writer.write(6, 2)
    assert torch.equal(first.ids, second.ids)
    assert torch.equal(first.answer, second.answer)
    assert not torch.equal(first.ids, other.ids)
    assert first.fingerprint == second.fingerprint != other.fingerprint
    assert first.greedy.tolist() == [True, False] * 3


def test_greedy_answers_are_what_the_base_would_say() -> None:
    model = chatty_model()
    written = DialogueWriter(model.base, model.tokenizer, RECIPE).write(6, 1)
    checked = 0
    for ids, answer in zip(written.ids[written.greedy].long(), written.answer[written.greedy], strict=True):
        logits = model.base.logits(model.base.forward(ids[None], model.base.new_cache(64))[0])
        greedy = logits.argmax(-1)  # (T,) each token's successor
        places = answer.nonzero()[:, 0]
        assert torch.equal(ids[places].long(), greedy[places - 1])
        checked += len(places)
    assert checked > 20


def test_dialogues_start_from_given_prompts() -> None:
    model = chatty_model()
    turns = turn_tokens(model.tokenizer)
    prompts = ["What is it ?", " ".join(["w20"] * 100)]
    writer = DialogueWriter(model.base, model.tokenizer, RECIPE, prompts)
    what = [5, 9, 10, 11]
    possible = [
        [*turns.before_user, *words, *turns.to_answer.ids] for words in (what, [20] * 32)
    ]  # cut in half
    written = writer.write(10, 0)
    seen = set()
    for ids, answer in zip(written.ids.tolist(), written.answer.tolist(), strict=True):
        number = next(i for i, start in enumerate(possible) if ids[: len(start)] == start)
        assert answer.index(True) == len(possible[number])
        seen.add(number)
    assert seen == {0, 1}


def test_openings_spread_what_users_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialogues, "OPENINGS", ("What is", "Why"))
    model = chatty_model()
    starts = DialogueWriter(model.base, model.tokenizer, RECIPE)._starts(400, 0)
    counts = Counter(tuple(start) for start in starts)
    assert set(counts) == {(TURN, 3), (TURN, 3, 5, 9), (TURN, 3, 7)}
    assert counts[TURN, 3] == pytest.approx(200, abs=40)
    assert counts[TURN, 3, 7] == pytest.approx(100, abs=35)


def test_where_dialogues_come_from() -> None:
    model = chatty_model()

    def origin(*prompts: str) -> dict[str, Any]:
        return DialogueWriter(model.base, model.tokenizer, RECIPE, prompts).origin

    assert origin() == {"base": model.base.fingerprint, "prompts": None}
    assert origin("a", "b")["prompts"] not in (None, origin("ab")["prompts"])


def test_a_template_that_fills_the_dialogue_is_refused() -> None:
    model = chatty_model()
    with pytest.raises(UsageError) as caught:
        DialogueWriter(model.base, model.tokenizer, Recipe(sequence_length=5))
    assert str(caught.value) == (
        "The model's chat template alone takes 5 of a dialogue's 5 tokens; use a larger --sequence-length."
    )


def test_turns_that_end_in_ordinary_words() -> None:
    # A user's turn of words 30 and 31 ends with 22 23 24, though 22 alone is one of its words too.
    successors = {21: [30, 31], 30: [31, 22], 31: [30, 22], 22: [23, 30], 23: [24], 24: [40, 41]}
    successors |= {40: [41, END], 41: [40, END], END: [5]}
    table = torch.full((64, 64), -20.0)
    for token, following in successors.items():
        table[token, following] = torch.tensor([0.2, 0.0])[: len(following)]
    tokenizer = tiny_tokenizer(
        "{% for m in messages %}{% if m['role'] == 'user' %}w20 w21 {{ m['content'] }}"
        "{% else %} w22 w23 w24 {{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    )
    recipe = Recipe(sequence_length=200, answer_temperature=1.0)
    writer = DialogueWriter(TableModel(table), tokenizer, recipe, ["w30 w31 w30"])
    written = writer.write(8, 0)
    tokens = written.ids
    assert tokens[:, :8].tolist() == [[20, 21, 30, 31, 30, 22, 23, 24]] * 8
    assert torch.equal(written.answer, torch.isin(tokens, torch.tensor([40, 41, END])))
    follows = set(zip(tokens[:, :-1].flatten().tolist(), tokens[:, 1:].flatten().tolist(), strict=True))
    allowed = {(token, after) for token, all_after in successors.items() for after in all_after}
    assert follows == allowed - {(END, 5)} | {(END, 20), (20, 21)}
