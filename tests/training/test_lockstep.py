"""Dialogues in lockstep: forced passages, ends of turns, what counts as answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from medusa_chat.training.lockstep import Lockstep
from medusa_chat.training.template import Passage, TurnTokens

# A user's turn ends with 90, which forces 91 and 92; an answer ends with 80, which forces 81.
TURNS = TurnTokens("", [70], Passage([90, 91, 92], [90], 1), Passage([80, 81], [80], 1), eos=None)
# A user's turn ends with 7 7 8, before which a template has 6 and behind it 9; an answer with EOS.
WORDS = TurnTokens("", [70], Passage([6, 7, 7, 8, 9], [7, 7, 8], 4), Passage([99, 81], [99], 1), eos=99)


def play(
    starts: list[list[int]],
    samples: list[list[int]],
    *,
    answering: bool = False,
    turns: TurnTokens = TURNS,
    length: int = 100,
) -> tuple[list[list[int]], list[list[int]]]:
    """The dialogues (n rows of tokens) and answer masks that these samples (n rows, from position 1) make."""
    written = Lockstep(turns, starts, length, answering=answering, device=torch.device("cpu"))
    for t, sampled in enumerate(torch.tensor(samples).T, start=1):
        written.advance(t, sampled)
    end = len(samples[0]) + 1
    return written.ids[:, :end].tolist(), written.answer[:, :end].int().tolist()


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
    tokens, answer = play([[70]], [[1, 2, 3, 4, 5, 6, 80, 5, 1, 2, 3, 4]], length=4 * 3 + 1)
    #                     three of the user's own, then the end is forced; after the answer counted afresh
    assert tokens == [[70, 1, 2, 3, 90, 91, 92, 80, 81, 1, 2, 3, 90]]
    assert answer == [[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]]


def test_passages_of_one_token() -> None:
    turns = TurnTokens("", [70], Passage([90], [90], 1), Passage([80], [80], 1), eos=None)
    tokens, answer = play([[70]], [[1, 90, 2, 80, 3, 90, 80, 4]], turns=turns)
    assert tokens == [[70, 1, 90, 2, 80, 3, 90, 80, 4]]
    assert answer == [[0, 0, 0, 1, 1, 0, 0, 1, 0]]


@pytest.mark.parametrize(
    ("said", "user_words"),
    [
        ([1, 7, 7, 8], [1]),
        ([7, 7, 8], []),
        ([7, 1, 7, 7, 1, 7, 7, 8], [7, 1, 7, 7, 1]),  # begun twice before
        ([7, 7, 7, 8], [7]),  # an ending within what only looked like one
        ([1, 6, 7, 7, 8], [1, 6]),  # as the template has it
    ],
)
def test_a_users_turn_ends_with_tokens_in_a_row(said: list[int], user_words: list[int]) -> None:
    tokens, answer = play([[70]], [[*said, 5, 3, 7, 7, 8, 99, 5, 7, 7, 8, 5, 4]], turns=WORDS)
    #                                  of the second answer on: ends of users' turns end nothing in an answer
    assert tokens == [[70, *user_words, 7, 7, 8, 9, 3, 7, 7, 8, 99, 81, 7, 7, 8, 9, 4]]
    assert answer == [[0] * (len(said) + 2) + [1, 1, 1, 1, 1] + [0] * 5 + [1]]


def test_an_ending_is_all_of_one_turn() -> None:
    # 7 of the start and 7 8 of the user are none; nor are tokens of the turns before.
    assert play([[70, 7]], [[5, 7, 8, 1]], turns=WORDS)[0] == [[70, 7, 7, 8, 1]]
    turns = replace(WORDS, to_user=Passage([99, 7, 7], [99], 1))
    assert play([[70]], [[7, 7, 8, 5, 99, 5, 5, 8, 1]], turns=turns)[0] == [[70, 7, 7, 8, 9, 99, 7, 7, 8, 1]]


def test_an_ending_that_is_the_whole_passage() -> None:
    turns = replace(WORDS, to_answer=Passage([7, 8], [7, 8], 2))
    tokens, answer = play([[70]], [[1, 7, 8, 3, 99, 5, 7, 8, 4]], turns=turns)
    assert tokens == [[70, 1, 7, 8, 3, 99, 81, 7, 8, 4]]
    assert answer == [[0, 0, 0, 0, 1, 1, 0, 0, 0, 1]]


def test_a_user_who_is_cut_gets_the_whole_passage() -> None:
    tokens, answer = play([[70]], [[1, 7, 1, 5, 5, 5, 5, 5, 3]], turns=WORDS, length=4 * 3)
    assert tokens == [[70, 1, 7, 1, 6, 7, 7, 8, 9, 3]]
    assert answer == [[0] * 9 + [1]]


def test_eos_ends_a_turn_that_the_template_ends_otherwise() -> None:
    turns = replace(TURNS, eos=99)
    tokens, answer = play([[70]], [[1, 99, 5, 5, 3, 99, 5, 2]], turns=turns)
    assert tokens == [[70, 1, 90, 91, 92, 3, 80, 81, 2]]  # as the template has it
    assert answer == [[0, 0, 0, 0, 0, 1, 0, 0, 0]]  # nobody chose 80
