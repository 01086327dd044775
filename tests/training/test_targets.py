"""What a head is asked to guess from which row, by hand."""

from __future__ import annotations

import torch

from medusa_chat.training.dialogues import Dialogues
from medusa_chat.training.targets import gather_targets, num_taught


def test_head_k_guesses_the_token_k_plus_2_places_after_the_rows_own() -> None:
    #           row:  0   1   2   3   4   5   6   7
    ids = torch.tensor([[10, 11, 12, 13, 14, 15, 16, 17]], dtype=torch.int32)
    answer = torch.tensor([[0, 0, 1, 1, 1, 1, 0, 1]], dtype=torch.bool)
    hidden = ids[..., None].float()
    targets = gather_targets(hidden, ids, answer, num_heads=3)
    # Rows have all three targets inside the sequence (0..3), a next token in the answer (1..4), and the one
    # after that too: 1, 2, 3.
    assert targets.hidden.tolist() == [[11.0], [12.0], [13.0]]
    assert targets.ids.tolist() == [[13, 14, 15], [14, 15, 16], [15, 16, 17]]
    assert targets.path.tolist() == [[12, 13, 14], [13, 14, 15], [14, 15, 16]]
    # Past the answer's end nothing counts, nor what comes after a gap (17).
    assert targets.valid.tolist() == [[True, True, True], [True, True, False], [True, False, False]]
    assert targets.ids.dtype == torch.int64


def test_rows_of_several_sequences_stay_in_their_sequence() -> None:
    ids = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
    targets = gather_targets(ids[..., None].float(), ids, torch.ones(2, 5, dtype=torch.bool), num_heads=2)
    assert targets.hidden[:, 0].tolist() == [1, 2, 6, 7]
    assert targets.ids.tolist() == [[3, 4, 8, 9], [4, 5, 9, 10]]


def test_a_lone_answer_token_is_no_target() -> None:
    answer = torch.zeros(1, 9, dtype=torch.bool)
    answer[0, 3] = True
    alone = Dialogues(torch.zeros(1, 9, dtype=torch.int32), answer.clone(), torch.tensor([True]))
    assert num_taught(alone, 4) == 0
    answer[0, 4] = True
    assert num_taught(Dialogues(alone.ids, answer, alone.greedy), 4) == 1


def test_deeper_heads_need_longer_answers_and_dialogues() -> None:
    ids, greedy = torch.zeros(1, 9, dtype=torch.int32), torch.tensor([True])
    answer = torch.zeros(1, 9, dtype=torch.bool)
    answer[0, 2:6] = True  # one of four tokens: the row before it teaches three heads
    assert num_taught(Dialogues(ids, answer, greedy), 5) == 3
    assert num_taught(Dialogues(ids, ~torch.zeros_like(answer), greedy), 20) == 7
    assert num_taught(Dialogues(ids[:, :2], answer[:, :2], greedy), 5) == 0
