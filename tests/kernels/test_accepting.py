"""Acceptance in one launch against decoding's, and what it leaves for the next step."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from medusa_chat.decoding.acceptance import accept_on_device
from medusa_chat.decoding.draft import Candidates, draft_static
from medusa_chat.decoding.tree import published_paths
from medusa_chat.kernels.accepting import StepState, accept

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("num_nodes", [1, 8, 41])
def test_as_decoding_accepts(num_nodes: int) -> None:
    kept = set()
    for seed in range(12):
        torch.manual_seed(seed)
        paths = list(published_paths(3))[: num_nodes - 1]
        draft = draft_static(
            Candidates(paths, DEVICE),
            torch.tensor(1, device=DEVICE),
            torch.randint(3, (3, 16), device=DEVICE),
        )
        chosen = torch.randint(3, (num_nodes,), device=DEVICE)
        hidden, expected = torch.randn(num_nodes, 70, device=DEVICE).half(), torch.rand(3, device=DEVICE)
        state = StepState(
            torch.zeros(1, dtype=torch.int64, device=DEVICE),
            torch.zeros(1, 70, device=DEVICE).half(),
            torch.tensor([5], dtype=torch.int32, device=DEVICE),
            torch.full((40,), -1, device=DEVICE),
        )
        path, before, result = accept(
            chosen, draft.ids, draft.parents, draft.depths, draft.paths, hidden, state, expected
        )
        wanted_path, num_kept, next_root, emitted = accept_on_device(chosen, draft)
        assert torch.equal(path, wanted_path)
        assert int(before) == 5
        assert result.tolist() == pytest.approx([int(num_kept), *emitted.tolist(), *expected.tolist()])
        assert int(state.root) == int(next_root)
        assert torch.equal(state.hidden[0], hidden[wanted_path[-1]])
        width = len(emitted)
        assert state.text.tolist() == [-1] * 6 + emitted.tolist() + [-1] * (34 - width)
        assert int(state.length) == 5 + int(num_kept)
        kept.add(int(num_kept))
    assert len(kept) > 1 or num_nodes == 1


def test_nothing_expected() -> None:
    draft = draft_static(
        Candidates([], DEVICE),
        torch.tensor(1, device=DEVICE),
        torch.empty(0, 0, dtype=torch.long, device=DEVICE),
    )
    state = StepState(
        torch.zeros(1, dtype=torch.int64, device=DEVICE),
        torch.zeros(1, 8, device=DEVICE),
        torch.zeros(1, dtype=torch.int32, device=DEVICE),
        torch.zeros(4, dtype=torch.int64, device=DEVICE),
    )
    _, _, result = accept(
        torch.tensor([9], device=DEVICE), draft.ids, draft.parents, draft.depths, draft.paths,
        torch.ones(1, 8, device=DEVICE), state, torch.empty(0, device=DEVICE),
    )  # fmt: skip
    assert result.tolist() == [1.0, 9.0]
    assert state.text.tolist() == [0, 9, 0, 0]
