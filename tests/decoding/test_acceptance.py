"""Acceptance rules against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from medusa_chat.decoding.acceptance import accept_exact, accept_on_device, accept_typical, typical_threshold
from medusa_chat.decoding.draft import Candidates, Draft, draft_static
from medusa_chat.decoding.sampling import choose_rows
from medusa_chat.records import SamplingOptions

GREEDY = SamplingOptions(temperature=0.0)
# Root 9; its drafts 3 and 5; below 3: 6 and 7.
DRAFT = draft_static(
    Candidates([(0,), (1,), (0, 0), (0, 1)]), torch.tensor(9), torch.tensor([[3, 5], [6, 7]])
)
UNIFORMS = torch.tensor([0.2, 0.7, 0.5])


def logits_for(*choices: int) -> torch.Tensor:
    """(N, 10) logits whose argmax at node i is choices[i]."""
    logits = torch.zeros(len(choices), 10)
    logits[range(len(choices)), list(choices)] = 4.0
    return logits


@pytest.mark.parametrize(
    ("choices", "path", "next_root"),
    [
        ((3, 7, 0, 0, 2), [0, 1, 4], 2),  # 9 → 3 → 7, then 2
        ((3, 6, 0, 8, 0), [0, 1, 3], 8),
        ((3, 1, 0, 0, 0), [0, 1], 1),  # 3 is right, neither 6 nor 7 is
        ((5, 0, 4, 0, 0), [0, 2], 4),
        ((1, 0, 0, 0, 0), [0], 1),  # no draft is right: a plain step
        ((6, 0, 0, 0, 0), [0], 6),  # 6 stands deeper in the tree, not here
    ],
)
def test_greedy_walks_down_the_argmaxes(choices: tuple[int, ...], path: list[int], next_root: int) -> None:
    accepted = accept_exact(logits_for(*choices), DRAFT, GREEDY, UNIFORMS)
    assert accepted.path == path
    assert accepted.next_root == next_root
    # At temperature 0 the typical rule is greedy too.
    assert accept_typical(logits_for(*choices), DRAFT, GREEDY, UNIFORMS) == accepted


def test_exact_takes_one_number_for_each_token_it_emits() -> None:
    """So that the same seed gives the same tokens with and without a tree."""
    options = SamplingOptions(temperature=1.0, top_p=1.0)
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(1))
    for seed in range(50):
        uniforms = torch.rand(3, generator=torch.Generator().manual_seed(seed))
        accepted = accept_exact(logits, DRAFT, options, uniforms)
        emitted = [
            int((logits[node].softmax(-1).cumsum(-1) > uniform).int().argmax())
            for node, uniform in zip(accepted.path, uniforms, strict=False)
        ]
        assert [*DRAFT.ids[accepted.path[1:]].tolist(), accepted.next_root] == emitted


def random_draft(generator: torch.Generator, num_nodes: int, vocab_size: int, width: int) -> Draft:
    """A tree of any shape in order of depth; so few tokens that siblings often hold the same one."""
    parents, depths = [-1], [0]
    while len(parents) < num_nodes:
        open_nodes = [node for node, depth in enumerate(depths) if depths[-1] - 1 <= depth < width - 1]
        parent = open_nodes[int(torch.randint(len(open_nodes), (), generator=generator))]
        if depths[parent] + 1 >= depths[-1]:
            parents.append(parent)
            depths.append(depths[parent] + 1)
    paths = []
    for node in range(num_nodes):
        path = [node]
        while parents[path[0]] >= 0:
            path.insert(0, parents[path[0]])
        paths.append(path)
    filled = torch.tensor([path + [path[-1]] * (width - len(path)) for path in paths])
    ids = torch.randint(vocab_size, (num_nodes,), generator=generator)
    return Draft(ids, torch.tensor(parents), torch.tensor(depths), filled)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_on_the_device_as_by_the_walk(temperature: float) -> None:
    options = SamplingOptions(temperature=temperature, top_p=0.9)
    generator = torch.Generator().manual_seed(2)
    lengths = set()
    for trial in range(300):
        draft = random_draft(generator, 1 + trial % 40, 4, 6)
        # A node's logits follow from the text up to it, as a model's do, also where siblings are the same.
        texts = [tuple(draft.ids[path].tolist()) for path in draft.paths]
        table = {text: torch.randn(4, generator=generator) * 2 for text in dict.fromkeys(texts)}
        logits = torch.stack([table[text] for text in texts])
        uniforms = torch.rand(6, generator=generator)

        accepted = accept_exact(logits, draft, options, uniforms)
        path, num_kept, next_root, emitted = accept_on_device(
            choose_rows(logits, options, uniforms[draft.depths]), draft
        )
        assert path[:num_kept].tolist() == accepted.path
        assert next_root == accepted.next_root
        drafts = draft.ids[accepted.path[1:]].tolist()
        assert emitted.tolist() == drafts + [accepted.next_root] * (6 - len(drafts))
        lengths.add(int(num_kept))
    assert len(lengths) >= 5  # short and long ones were among them


def test_typical_threshold_by_hand() -> None:
    # Entropy of a fair coin is ln 2, so α · exp(-H) = 0.3 / 2; ε is smaller.
    assert typical_threshold(torch.tensor([0.5, 0.5])) == pytest.approx(0.09)
    # Ten equal tokens: 0.3 / 10 is below ε.
    assert typical_threshold(torch.full((10,), 0.1)) == pytest.approx(0.03)
    # Certain: H = 0, and 0.3 is above ε.
    assert typical_threshold(torch.tensor([1.0, 0.0])) == pytest.approx(0.09)


def test_typical_keeps_the_longest_plausible_path() -> None:
    options = SamplingOptions(temperature=1.0, top_p=1.0, acceptance="typical")
    probs = torch.full((5, 10), 1e-4)
    probs[0, 3], probs[0, 5] = 0.10, 0.85  # both drafts of the root pass ε = 0.09
    probs[1, 6], probs[1, 7] = 0.05, 0.92  # below 3, 6 fails and 7 passes
    probs[4, 2] = 0.999
    logits = (probs / probs.sum(-1, keepdim=True)).log()
    accepted = accept_typical(logits, DRAFT, options, UNIFORMS)
    assert accepted.path == [0, 1, 4]  # longer than the likelier 9 → 5
    assert accepted.next_root == 2


def test_typical_prefers_the_likelier_of_equally_long_paths() -> None:
    options = SamplingOptions(temperature=1.0, top_p=1.0, acceptance="typical")
    probs = torch.full((5, 10), 1e-4)
    probs[0, 3], probs[0, 5] = 0.30, 0.69
    probs[1, 1] = probs[2, 4] = 0.999
    accepted = accept_typical(probs.log(), DRAFT, options, UNIFORMS)
    assert accepted.path == [0, 2]
    assert accepted.next_root == 4


def test_temperature_enters_the_typical_rule() -> None:
    # p = (0.08, 0.92) fails ε at temperature 1; at 2 it is (0.23, 0.77) and passes.
    draft = draft_static(Candidates([(0,)]), torch.tensor(1), torch.tensor([[0]]))
    logits = torch.tensor([[math.log(0.08), math.log(0.92)], [0.0, 0.0]])
    for temperature, path in ((1.0, [0]), (2.0, [0, 1])):
        options = SamplingOptions(temperature=temperature, top_p=1.0, acceptance="typical")
        assert accept_typical(logits, draft, options, UNIFORMS).path == path
