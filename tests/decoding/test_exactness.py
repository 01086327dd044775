"""Exact sampling is exact: what is emitted with drafts is distributed as without, whatever the tree.

The distribution to match is computed, not sampled: all continuations of three tokens are enumerated. A
deliberately biased acceptance must fail the same test, else the test would prove nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product

import pytest
import torch

from medusa_chat.decoding import generate as loop
from medusa_chat.decoding.acceptance import Acceptance, accept_exact
from medusa_chat.decoding.draft import Candidates, Draft
from medusa_chat.decoding.generate import Context, generate
from medusa_chat.decoding.lookup import MAX_CHAIN
from medusa_chat.decoding.planning import Plan, fixed_plan
from medusa_chat.decoding.sampling import probabilities
from medusa_chat.model.base import BaseModel
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.records import SamplingOptions
from tests.tiny import TableModel, random_heads, table_heads, tiny_llama

VOCAB = 6
LENGTH = 3
PROMPT = [1, 4, 2]
FILTERS = {
    "temperature 1": {"temperature": 1.0, "top_p": 1.0},
    "top-p": {"temperature": 1.0, "top_p": 0.7},
    "top-k": {"temperature": 1.3, "top_p": 1.0, "top_k": 3},
    "min-p": {"temperature": 0.8, "top_p": 1.0, "min_p": 0.1},
}
CHAIN = Plan(Candidates([(0,), (0, 0), (0, 0, 0)]))
WIDE = Plan(Candidates([*product(range(4), repeat=1), *product(range(3), repeat=2), (0, 0, 0), (1, 0, 0)]))


def exact_distribution(base: BaseModel, options: SamplingOptions) -> dict[tuple[int, ...], float]:
    """Continuation -> its probability under plain decoding, token by token."""
    found: dict[tuple[int, ...], float] = {(): 1.0}
    with torch.inference_mode():
        for _ in range(LENGTH):
            longer = {}
            for tokens, reach in found.items():
                cache = base.new_cache()
                hidden = base.forward(torch.tensor([[*PROMPT, *tokens]]), cache)[0, -1:]
                probs = probabilities(base.logits(hidden)[0], options).tolist()
                longer |= {(*tokens, token): reach * p for token, p in enumerate(probs) if p > 0}
            found = longer
    return found


def sample(
    base: BaseModel, heads: MedusaHeads, tree: Plan, options: SamplingOptions, count: int
) -> Counter[tuple[int, ...]]:
    context, counts = Context(base.new_cache()), Counter[tuple[int, ...]]()
    generator = torch.Generator().manual_seed(11)
    for _ in range(count):
        steps = generate(base, heads, context, PROMPT, lambda: options, lambda _: tree, generator=generator)
        counts[tuple(token for step in steps for token in step.ids)] += 1
    return counts


def p_value(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """Of the chi-square test; cells that expect fewer than 5 are taken together."""
    total = sum(counts.values())
    if any(tokens not in expected for tokens in counts):
        return 0.0
    cells = [(counts[tokens], p * total) for tokens, p in expected.items() if p * total >= 5]
    rest = (total - sum(seen for seen, _ in cells), total - sum(wanted for _, wanted in cells))
    cells += [rest] if rest[1] >= 5 else []
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells)
    degrees = torch.tensor((len(cells) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(degrees, torch.tensor(statistic / 2, dtype=torch.float64)))


def options_of(name: str) -> SamplingOptions:
    return SamplingOptions(**FILTERS[name], max_tokens=LENGTH)


def table() -> torch.Tensor:
    return torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(3)) * 1.5


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("tree", [CHAIN, WIDE], ids=["chain", "wide"])
@pytest.mark.parametrize("useful", [True, False], ids=["good heads", "useless heads"])
def test_frequencies_match_plain_sampling(name: str, tree: Plan, useful: bool) -> None:
    base = TableModel(table())
    heads = table_heads(table(), 3) if useful else random_heads(base, 3, own_lm_heads=True)
    options = options_of(name)
    counts = sample(base, heads, tree, options, 3000)
    assert p_value(counts, exact_distribution(base, options)) > 1e-3


def test_frequencies_match_with_dynamic_drafts_and_chains() -> None:
    """A draft that follows from the text so far must not sway what comes after it."""
    base, options = TableModel(table()), options_of("top-p")
    paths = [path for depth in (1, 2, 3) for path in product(range(3), repeat=depth)]
    plan = fixed_plan(Candidates(paths, chain_length=MAX_CHAIN), 8)
    counts = sample(base, table_heads(table(), 3), plan, options, 3000)
    assert p_value(counts, exact_distribution(base, options)) > 1e-3


@pytest.mark.parametrize("name", ["temperature 1", "top-p", "top-k"])
def test_frequencies_match_on_a_real_transformer(name: str) -> None:
    base = tiny_llama(vocab_size=VOCAB, hidden_size=16)
    options = options_of(name)
    counts = sample(base, random_heads(base, 3), WIDE, options, 700)
    assert p_value(counts, exact_distribution(base, options)) > 1e-3


def take_first_draft(
    logits: torch.Tensor, draft: Draft, options: SamplingOptions, uniforms: torch.Tensor
) -> Acceptance:
    """Biased on purpose: the first draft is always taken."""
    accepted = accept_exact(logits, draft, options, uniforms)
    is_taken = len(draft) == 1 or len(accepted.path) > 1
    return accepted if is_taken else Acceptance([0, 1], accepted.next_root)


def prefer_plausible(
    logits: torch.Tensor, draft: Draft, options: SamplingOptions, uniforms: torch.Tensor
) -> Acceptance:
    """Biased subtly: a draft also passes if it is at least as likely as what was drawn."""
    accepted = accept_exact(logits, draft, options, uniforms)
    if (
        len(draft) > 1
        and len(accepted.path) == 1
        and logits[0, draft.ids[1]] >= logits[0, accepted.next_root]
    ):
        return Acceptance([0, 1], accepted.next_root)
    return accepted


@pytest.mark.parametrize("biased", [take_first_draft, prefer_plausible])
@pytest.mark.parametrize("name", ["temperature 1", "top-p"])
def test_a_biased_acceptance_fails_the_same_test(
    biased: Callable[..., Acceptance], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loop.ACCEPTANCE_RULES, "exact", biased)
    base = TableModel(table())
    options = options_of(name)
    counts = sample(base, table_heads(table(), 3), WIDE, options, 3000)
    assert p_value(counts, exact_distribution(base, options)) < 1e-6


@pytest.mark.parametrize("tree", [CHAIN, WIDE], ids=["chain", "wide"])
def test_the_same_seed_gives_the_same_tokens_with_and_without_drafts(tree: Plan) -> None:
    base = tiny_llama()
    heads = random_heads(base, 3)
    for seed in range(5):
        replies = []
        for used in (Plan(Candidates([])), tree):
            options = SamplingOptions(temperature=1.0, top_p=0.95, max_tokens=40)
            steps = generate(
                base,
                heads,
                Context(base.new_cache()),
                PROMPT,
                lambda options=options: options,
                lambda _, used=used: used,
                generator=torch.Generator().manual_seed(seed),
            )
            replies.append([token for step in steps for token in step.ids])
        assert replies[0] == replies[1]
