"""The lookup against a search by hand through the list of tokens."""

from __future__ import annotations

import pytest
import torch

from medusa_chat.decoding.lookup import MAX_CHAIN, look_up

LONGEST = 8


def found_by_hand(ids: list[int]) -> tuple[int, list[int]]:
    """Length of the longest suffix that ends earlier too, the latest such place's continuation."""
    best, start = 0, 0
    for end in range(1, len(ids)):
        matched = 0
        while matched < min(LONGEST, end) and ids[end - 1 - matched] == ids[-1 - matched]:
            matched += 1
        if matched and matched >= best:
            best, start = matched, end
    behind = ids[start:]
    return best, [behind[i % len(behind)] for i in range(MAX_CHAIN)]


def looked_up(ids: list[int], capacity: int = 64) -> tuple[list[int], list[float]]:
    buffer = torch.full((capacity,), 3)  # what stands behind the conversation is of no account
    buffer[: len(ids)] = torch.tensor(ids)
    chain = look_up(buffer, torch.tensor(len(ids)))
    return chain.ids.tolist(), chain.log_probs.exp().tolist()


def test_what_followed_the_longest_suffix() -> None:
    # 5 6 stands twice before, once behind 4: the longer match wins over the later one.
    ids, probability = looked_up([4, 5, 6, 1, 2, 9, 5, 6, 8, 8, 4, 5, 6])
    assert ids[:5] == [1, 2, 9, 5, 6]
    assert probability == sorted(probability, reverse=True)
    # 5 alone twice: the later one counts.
    assert looked_up([5, 1, 2, 5, 3, 4, 5])[0][:3] == [3, 4, 5]


def test_a_repetition_goes_on() -> None:
    assert looked_up([9, 1, 2, 3, 1, 2, 3])[0] == [1, 2, 3] * 5
    assert looked_up([6, 6, 6])[0] == [6] * MAX_CHAIN


@pytest.mark.parametrize("ids", [[4], [4, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9]])
def test_nothing_is_found_where_nothing_repeats(ids: list[int]) -> None:
    assert looked_up(ids)[1] == [0.0] * MAX_CHAIN


def test_longer_matches_are_likelier_to_go_on() -> None:
    likely = [looked_up([*range(10, 10 + n), 50, 60, *range(10, 10 + n)])[1][0] for n in range(1, 10)]
    assert likely[:8] == sorted(set(likely))
    assert likely[8] == likely[7]  # no more than eight are compared


def test_agrees_with_a_search_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    matches = set()
    for length in [*range(1, 30), 64] * 6:
        ids = torch.randint(3, (length,), generator=generator).tolist()
        matched, continuation = found_by_hand(ids)
        found, probability = looked_up(ids)
        matches.add(matched)
        assert (probability[0] > 0) == (matched > 0)
        if matched:
            assert found == continuation
    assert matches >= set(range(7))
