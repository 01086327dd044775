"""Accuracy of heads, by hand: a base that is a table, heads whose guesses are written down."""

from __future__ import annotations

import pytest
import torch

from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.training import accuracy
from medusa_chat.training.accuracy import measure_accuracy
from medusa_chat.training.dialogues import Dialogues
from tests.tiny import TableModel

VOCAB_SIZE = 6


class Echo(TableModel):
    """Its hidden state is the last token, one-hot."""

    def __init__(self) -> None:
        super().__init__(torch.eye(VOCAB_SIZE))


class GuessingHeads(BlockHeads):
    """Heads that guess, from best to worst, what `guesses[head][token]` says, whatever the base knows."""

    def __init__(self, guesses: list[dict[int, list[int]]]) -> None:
        super().__init__(torch.zeros(1, len(guesses), 6, 6), torch.zeros(1, len(guesses), 1, 6))
        self.guesses = guesses

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        tokens = hidden.argmax(-1).tolist()
        logits = torch.zeros(len(self.guesses), len(tokens), VOCAB_SIZE)
        for head, table in enumerate(self.guesses):
            for row, token in enumerate(tokens):
                for rank, guess in enumerate(table[token]):
                    logits[head, row, guess] = 10.0 - rank
        return logits


def dialogues(rows: list[list[int]], answers: list[list[int]], greedy: list[bool]) -> Dialogues:
    return Dialogues(
        torch.tensor(rows, dtype=torch.int32), torch.tensor(answers, dtype=torch.bool), torch.tensor(greedy)
    )


@pytest.mark.parametrize("tokens", [1, 48])
def test_ranks_and_paths_of_a_known_case(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    monkeypatch.setattr(accuracy, "_TOKENS", tokens)
    monkeypatch.setattr(accuracy, "_ROWS", 1)
    base = Echo()
    data = dialogues(
        # From 0 heads should guess 2 and 3, from 1: 3 and 4, from 2: 4 and 5.
        [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [5, 5, 5, 5, 5, 5]],
        [[0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]],
        [True, True, False],  # the last is not greedy: left out
    )
    heads = GuessingHeads(
        [
            {0: [2, 1], 1: [0, 3], 2: [5, 0, 1, 4]},  # ranks of the truth: 0, 1, 3
            {0: [3], 1: [0, 1, 2, 4], 2: [0, 5]},  # ranks: 0, 3, 1
        ]
    )
    measured = measure_accuracy(base, heads, data)
    # Rows of the first dialogue: from 0, 1, 2. Of the second, whose answer is 2, 3, 4: from 1 (3 then 4) and
    # from 2 (4; 5 is beyond it).
    assert measured.num_rows == 5
    assert measured.top == {
        1: [pytest.approx(1 / 5), pytest.approx(1 / 4)],
        3: [pytest.approx(3 / 5), pytest.approx(2 / 4)],
        5: [1.0, 1.0],
        10: [1.0, 1.0],
    }
    assert measured.path_probability == {
        (1,): pytest.approx(2 / 5),
        (1, 3): pytest.approx(2 / 5),
        (3,): pytest.approx(2 / 5),
        (0,): pytest.approx(1 / 5),
        (0, 0): pytest.approx(1 / 5),
        (3, 1): pytest.approx(1 / 5),  # of the second dialogue's last row only (3,) is known
    }


def test_a_head_nobody_could_check_is_never_right() -> None:
    base = Echo()
    data = dialogues([[0, 1, 2, 3, 4]], [[0, 1, 1, 0, 0]], [True])
    heads = GuessingHeads([{0: [2]}, {0: [3]}])
    measured = measure_accuracy(base, heads, data)
    assert measured.top[1] == [1.0, 0.0]
    assert measured.path_probability == {(0,): 1.0}


def test_the_paths_kept_are_prefix_closed_and_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "MAX_PATHS", 40)
    random = torch.Generator().manual_seed(0)
    # Ranks low more often than high, some beyond reach (10), some past the answer (-1, for good).
    ranks = (torch.rand(2000, 4, generator=random) ** 2 * 12).long().clamp_max(10)
    ranks[torch.rand(2000, generator=random) < 0.2, 2:] = -1
    paths = accuracy._path_probability(ranks.tolist())
    assert len(paths) == 40
    assert list(paths.values()) == sorted(paths.values(), reverse=True)
    assert max(map(len, paths)) >= 3
    for path, probability in paths.items():
        matching = (ranks[:, : len(path)] == torch.tensor(path)).all(1).float().mean()
        assert probability == pytest.approx(float(matching))
        assert len(path) == 1 or paths[path[:-1]] >= probability
