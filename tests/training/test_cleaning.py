"""What is left out before learning: answers seen before, and answers that go round in circles."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from medusa_chat.training import cleaning
from medusa_chat.training.cleaning import Cleaning, clean
from medusa_chat.training.dialogues import Dialogues


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tokens said for the fourth time are a runaway."""
    monkeypatch.setattr(cleaning, "_RUN_LENGTH", 4)


def dialogues(*rows: tuple[list[int], str]) -> Dialogues:
    """Of tokens, and a mark for each: "a" for an answer's, "." for others."""
    ids = torch.tensor([tokens for tokens, _ in rows], dtype=torch.int32)
    answer = torch.tensor([[mark == "a" for mark in marks] for _, marks in rows])
    return Dialogues(ids, answer, torch.arange(len(rows)) % 2 == 0)


def marks(cleaned: Dialogues) -> list[str]:
    return ["".join("a" if answer else "." for answer in row) for row in cleaned.answer.tolist()]


def random_dialogues(num_words: int, num_dialogues: int = 40, length: int = 90) -> Dialogues:
    generator = torch.Generator().manual_seed(num_words)
    ids = torch.randint(num_words, (num_dialogues, length), generator=generator, dtype=torch.int32)
    # Turns of about a dozen tokens.
    turns = (torch.rand(num_dialogues, length, generator=generator) < 0.08).cumsum(1) % 2 == 1
    return Dialogues(ids, turns, torch.arange(num_dialogues) % 2 == 0)


def answers(row: list[bool]) -> list[tuple[int, int]]:
    """(begin, end) of each run of True."""
    edges = [place for place in range(1, len(row)) if row[place] != row[place - 1]]
    bounds = [0, *edges, len(row)]
    return [(begin, end) for begin, end in pairwise(bounds) if row[begin]]


def test_an_answer_is_seen_once_for_each_users_turn() -> None:
    cleaned, counted = clean(
        dialogues(
            ([1, 2, 5, 6, 1, 2, 5, 6], "..aa..aa"),  # the same turn and answer again
            ([1, 2, 5, 6, 1, 3, 5, 6], "..aa..aa"),  # then another turn, the same answer
            ([1, 2, 5, 6, 1, 3, 5, 7], "..aa..aa"),  # then that turn, another answer
            ([1, 2, 5, 6, 1, 3, 5, 7], "..aa..aa"),  # nothing new at all
            ([1, 3, 5, 7, 1, 2, 5, 0], "..aa...."),
        )
    )
    assert marks(cleaned) == ["..aa....", "......aa", "......aa"]
    assert cleaned.ids[:, 7].tolist() == [6, 6, 7]
    assert cleaned.greedy.tolist() == [True, False, True]
    assert counted == Cleaning(5, 18, num_duplicate_tokens=12, num_runaway_tokens=0)


@pytest.mark.usefixtures("short_runs")
def test_an_answer_is_cut_where_it_runs_away() -> None:
    circle = [1, 2, 3, 4, 5]
    said = [7, *circle * 5, 9, 8]
    cleaned, counted = clean(dialogues(([6, *said], "." + "a" * 28)))
    # The fourth 1 2 3 4 ends at place 20; what comes after the circles goes too.
    assert marks(cleaned) == ["." + "a" * 19 + "." * 9]
    assert counted == Cleaning(1, 28, num_duplicate_tokens=0, num_runaway_tokens=9)


@pytest.mark.usefixtures("short_runs")
def test_repeating_in_other_answers_or_not_too_often_is_left_alone() -> None:
    circle = [1, 2, 3, 4]
    rows = dialogues(
        ([6, *circle * 3, 1, 2, 3, 5], "." + "a" * 16),  # three times and a bit
        ([*circle * 2, 6, *circle * 2], "a" * 8 + "." + "a" * 8),
        ([6, *circle * 4], "a" + "." * 16),  # a user may
    )
    cleaned, counted = clean(rows)
    assert torch.equal(cleaned.answer, rows.answer)
    assert (counted.num_duplicate_tokens, counted.num_runaway_tokens) == (0, 0)


def test_runs_of_32_count() -> None:
    def cut(period: int) -> int:
        """How many tokens are left of an answer of one period."""
        row = [torch.arange(639).remainder(period).tolist()]
        cleaned, _ = clean(dialogues(([999, *row[0]], "." + "a" * 639)))
        return int(cleaned.answer.sum())

    # 32 tokens, and after three periods more they stand there for the fourth time.
    assert [cut(period) for period in (1, 7, 32, 150)] == [32 + 3 * p - 1 for p in (1, 7, 32, 150)]
    assert cut(300) == 639


@pytest.mark.usefixtures("short_runs")
@pytest.mark.parametrize("num_words", [1, 2, 3, 50])
def test_the_same_as_looking_at_each_answer(num_words: int) -> None:
    written = random_dialogues(num_words)
    cleaned, counted = clean(written)
    expected, left = [], []
    seen: set[tuple[int, ...]] = set()
    num_duplicate = 0
    for ids, answer in zip(written.ids.tolist(), written.answer.tolist(), strict=True):
        keep, turn = [False] * len(ids), 0
        for begin, end in answers(answer):
            said = tuple(ids[turn:end])
            turn = end
            num_duplicate += (end - begin) * (said in seen)
            if said in seen:
                continue
            seen.add(said)
            runs = [tuple(ids[place : place + 4]) for place in range(begin, end - 3)]
            first = next((i for i, run in enumerate(runs) if runs[:i].count(run) == 3), None)
            stop = end if first is None else begin + first + 3
            keep[begin:stop] = [True] * (stop - begin)
        if any(keep):
            expected.append(keep)
            left.append(ids)
    assert cleaned.answer.tolist() == expected
    assert cleaned.ids.tolist() == left
    num_kept = sum(map(sum, expected))
    assert counted == Cleaning(40, int(written.answer.sum()), num_duplicate, counted.num_runaway_tokens)
    assert counted.num_runaway_tokens == counted.num_answer_tokens - num_duplicate - num_kept
    if num_words < 50:
        assert counted.num_runaway_tokens > 0


def test_nothing_may_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned, counted = clean(dialogues(([1, 2, 3], "..."), ([4, 5, 6], "...")))
    assert cleaned.ids.shape == cleaned.answer.shape == (0, 3)
    assert counted == Cleaning(2, 0, 0, 0)


def test_it_is_told_in_one_sentence() -> None:
    assert Cleaning(12288, 6143386, 59731, 974731).summary == (
        "Of 6,143,386 answer tokens in 12,288 dialogues, 59,731 were duplicates and 974,731 runaway "
        "repetitions; these are left out."
    )
