"""How dialogues are written: forced pieces, ends of turns, what counts as answer, how a token is drawn."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from medusa_chat.errors import UnsupportedModel
from medusa_chat.training import dialogues
from medusa_chat.training.dialogues import DialogueWriter, _TurnState, sample_rows
from medusa_chat.training.recipe import Recipe
from medusa_chat.training.template import TurnTokens, turn_tokens
from tests.training.chatty import END, TURN, chatty_model, tiny_tokenizer

RECIPE = Recipe(sequence_length=64)
# A user's turn ends with 90, which forces 91 and 92; an answer ends with 80, which forces 81.
TURNS = TurnTokens(before_user=[70], to_answer=[90, 91, 92], to_user=[80, 81])


def play(
    starts: list[list[int]],
    samples: list[list[int]],
    *,
    answering: bool = False,
    longest: int = 100,
    turns: TurnTokens = TURNS,
) -> tuple[list[list[int]], list[list[int]]]:
    """The dialogues (n rows of tokens) and answer masks that these samples (n rows, from position 1) make."""
    state = _TurnState(
        turns, starts, answering=answering, longest_user_turn=longest, device=torch.device("cpu")
    )
    columns = [state.starts[:, 0]]
    masks = [torch.zeros(len(starts), dtype=torch.bool)]
    for t, sampled in enumerate(torch.tensor(samples).T, start=1):
        token, is_answer = state.advance(t, sampled)
        columns.append(token)
        masks.append(is_answer)
    return torch.stack(columns, 1).tolist(), torch.stack(masks, 1).int().tolist()


def test_turns_alternate_and_only_answers_count() -> None:
    tokens, answer = play([[70, 1]], [[5, 2, 90, 5, 5, 3, 4, 80, 5, 6, 90, 5, 5, 7]])
    #                 start  free end  forced  answer end f  user end forced  answer
    assert tokens == [[70, 1, 2, 90, 91, 92, 3, 4, 80, 81, 6, 90, 91, 92, 7]]
    assert answer == [[0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1]]


def test_each_dialogue_goes_its_own_way() -> None:
    tokens, answer = play([[70], [70, 1, 2]], [[90, 5, 5, 3, 80], [5, 5, 90, 5, 5]])
    assert tokens == [[70, 90, 91, 92, 3, 80], [70, 1, 2, 90, 91, 92]]
    assert answer == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]]


def test_a_given_prompt_starts_in_the_answer() -> None:
    tokens, answer = play([[70, 1, 90, 91, 92]], [[5, 5, 5, 5, 3, 80, 5, 2]], answering=True)
    assert tokens == [[70, 1, 90, 91, 92, 3, 80, 81, 2]]
    assert answer == [[0, 0, 0, 0, 0, 1, 1, 0, 0]]


def test_the_end_of_the_other_turn_ends_nothing() -> None:
    tokens, answer = play([[70]], [[80, 90, 5, 5, 90, 80, 5]])
    assert tokens == [[70, 80, 90, 91, 92, 90, 80, 81]]
    assert answer == [[0, 0, 0, 0, 0, 1, 1, 0]]


def test_a_rambling_user_is_cut_short() -> None:
    tokens, answer = play([[70]], [[1, 2, 3, 4, 5, 6, 80, 5, 1, 2, 3, 4]], longest=3)
    #                     three of the user's own, then the end is forced; after the answer counted afresh
    assert tokens == [[70, 1, 2, 3, 90, 91, 92, 80, 81, 1, 2, 3, 90]]
    assert answer == [[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]]


def test_pieces_of_one_token() -> None:
    turns = TurnTokens(before_user=[70], to_answer=[90], to_user=[80])
    tokens, answer = play([[70]], [[1, 90, 2, 80, 3, 90, 80, 4]], turns=turns)
    assert tokens == [[70, 1, 90, 2, 80, 3, 90, 80, 4]]
    assert answer == [[0, 0, 0, 1, 1, 0, 0, 1, 0]]


def test_the_pieces_around_messages_are_the_tokenizers_own_ids(default_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(default_model)
    turns = turn_tokens(tokenizer)
    messages = ["Write a poem.\nAbout ants!", "Ants – they march 12 × 12.  ", "Thanks 🐜", "You're welcome"]

    def own(number: int) -> list[int]:
        return list(tokenizer.encode(messages[number], add_special_tokens=False))

    joined = [*turns.before_user, *own(0), *turns.to_answer, *own(1), *turns.to_user, *own(2)]
    joined += [*turns.to_answer, *own(3), *turns.to_user]
    roles = ["user", "assistant", "user", "assistant", "user"]
    conversation = [
        {"role": role, "content": text} for role, text in zip(roles, [*messages, ""], strict=True)
    ]
    rendered = tokenizer.apply_chat_template(conversation, return_dict=True)["input_ids"]
    assert joined == rendered[: len(joined)]
    # What the model samples to end its turn is what it was trained to.
    assert turns.to_user[0] == turns.to_answer[0] == tokenizer.eos_token_id


def test_the_pieces_of_the_tiny_template() -> None:
    assert turn_tokens(tiny_tokenizer()) == TurnTokens([TURN, 3], [END, TURN, 4], [END, TURN, 3])


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "has no chat template"),
        ("{% for m in messages %}<|turn|>{{ m['content'] | upper }}{% endfor %}", "rewrites messages"),
        ("{% for m in messages[:2] %}<|turn|>{{ m['content'] }}{% endfor %}", "rewrites messages"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "puts nothing between turns"),
        ("{{ raise_exception('System first!') }}", r"can't render a conversation \(System first!\)"),
        ("{% for %}", "can't render a conversation"),
    ],
)
def test_a_template_that_is_no_use_is_refused(template: str | None, said: str) -> None:
    with pytest.raises(UnsupportedModel, match=said):
        turn_tokens(tiny_tokenizer(template))


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
    possible = [[*turns.before_user, *words, *turns.to_answer] for words in (what, [20] * 32)]  # cut in half
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
