"""The loop: propose a tree, verify it in one forward, accept a path, commit its rows.

A generator: the caller times it by next(), cancels it by closing it, and the cache stays usable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from medusa_chat.decoder_memory import SPARE_ROWS
from medusa_chat.decoding.acceptance import ACCEPTANCE_RULES, Accept
from medusa_chat.decoding.draft import root_alone
from medusa_chat.decoding.origins import origins_of
from medusa_chat.decoding.planning import Plan, plain_plan, propose
from medusa_chat.model.base import BaseModel
from medusa_chat.model.cache import KVCache
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.loading import is_out_of_memory
from medusa_chat.records import BASE_ORIGIN, FinishReason, KVPrecision, SamplingOptions

if TYPE_CHECKING:
    from medusa_chat.decoding.step_graphs import StepGraphs


@dataclass(slots=True)
class Context:
    """The committed tokens and their KV rows, in step with each other; graphs: of the steps on a GPU."""

    cache: KVCache
    ids: list[int] = field(default_factory=list)
    graphs: StepGraphs | None = None

    def reuse(self, prompt_ids: Sequence[int]) -> int:
        """Forgets everything after the longest common prefix with the prompt; returns its length.

        At least the prompt's last token is left to run: its hidden state is needed.
        """
        limit = min(len(self.ids), len(prompt_ids) - 1)
        shared = next((i for i in range(limit) if self.ids[i] != prompt_ids[i]), limit)
        self.cache.truncate(shared)
        del self.ids[shared:]
        return shared

    def commit(self, rows: Sequence[int], ids: Sequence[int]) -> None:
        """Keeps these rows of the last forward, which ran these ids."""
        self.cache.keep(rows)
        self.ids.extend(ids)


@dataclass(frozen=True, slots=True)
class Step:
    """Tokens one base forward emitted, and their origins. num_nodes: rows verified, 0 for the prefill.
    seconds: wall time. head_depth: of the deepest draft by a head. expected: tokens that its draft was
    expected to bring; outlook: those of a draft of each size. None if not known.
    """

    ids: list[int]
    origins: list[int]
    num_nodes: int
    seconds: float
    head_depth: int = 0
    expected: float | None = None
    outlook: Mapping[int, float] | None = None
    finish_reason: FinishReason | None = None


def generate(
    base: BaseModel,
    heads: MedusaHeads | None,
    context: Context,
    prompt_ids: Sequence[int],
    options: Callable[[], SamplingOptions],
    plan: Callable[[SamplingOptions], Plan],
    *,
    eos_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
    accept: Accept | None = None,
) -> Iterator[Step]:
    """Yields the prefill's Step with the first token, then one Step for each base forward.

    options is called at every step; plan turns them into how that step drafts, and a draft of one node is
    plain decoding by the same code. Ends with a finish_reason: "eos" (the EOS is the last id), "length"
    (max_tokens) or "context" (the model's context is full). accept: a rule in place of the options' one,
    which chooses the first token too; for contexts without graphs, which know theirs alone.
    """
    num_emitted = 0
    steps = _steps(base, heads, context, prompt_ids, options, plan, generator, accept)
    for step in steps:
        max_tokens = options().max_tokens  # may have been lowered below what is out already
        ids = step.ids[: max(0, max_tokens - num_emitted)]
        reason: FinishReason | None = None
        eos = next((i for i, token in enumerate(ids) if token in eos_ids), None)
        if eos is not None:
            ids, reason = ids[: eos + 1], "eos"
        elif num_emitted + len(ids) >= max_tokens:
            reason = "length"
        elif len(context.ids) + 1 >= base.context_length:
            reason = "context"
        num_emitted += len(ids)
        yield replace(step, ids=ids, origins=step.origins[: len(ids)], finish_reason=reason)
        if reason is not None:
            return


@torch.inference_mode()
def _steps(
    base: BaseModel,
    heads: MedusaHeads | None,
    context: Context,
    prompt_ids: Sequence[int],
    options: Callable[[], SamplingOptions],
    plan: Callable[[SamplingOptions], Plan],
    generator: torch.Generator | None,
    accept: Accept | None,
) -> Iterator[Step]:
    started = time.perf_counter()
    # One for the token after each position, drawn on the CPU: a seed gives the same ones everywhere.
    uniforms = torch.rand(base.context_length, generator=generator)
    with base.undisturbed():
        rest = prompt_ids[context.reuse(prompt_ids) :]
        hidden = base.prefill(torch.tensor([rest], device=base.device), context.cache)  # (1, D)
        context.ids.extend(rest)
        current, draft = options(), root_alone(prompt_ids[-1], base.device)
        rule = accept or ACCEPTANCE_RULES[current.acceptance]
        root = rule(base.logits(hidden), draft, current, uniforms[len(context.ids) - 1 :]).next_root
    yield Step([root], [BASE_ORIGIN], 0, time.perf_counter() - started)

    while True:
        if context.graphs is not None:
            root, hidden = yield from context.graphs.steps(context, root, hidden, uniforms, options, plan)
        root, hidden = yield from _eager_steps(
            base, heads, context, root, hidden, uniforms, options, plan, accept
        )


def _eager_steps(
    base: BaseModel,
    heads: MedusaHeads | None,
    context: Context,
    root: int,
    hidden: torch.Tensor,
    uniforms: torch.Tensor,
    options: Callable[[], SamplingOptions],
    plan: Callable[[SamplingOptions], Plan],
    accept: Accept | None,
) -> Generator[Step, None, tuple[int, torch.Tensor]]:
    """Steps operation by operation, until graphs could do them: with the root and the hidden state (1, D)
    before it, which are returned.
    """
    text = torch.empty(base.context_length, dtype=torch.long, device=base.device)  # context.ids and the root
    text[: len(context.ids)] = torch.tensor(context.ids)
    plain = plain_plan(base.device)
    while True:
        started = time.perf_counter()
        current = options()
        if context.graphs is not None and context.graphs.can_do(current):
            return root, hidden
        num_cached = len(context.ids)
        text[num_cached] = root
        with base.undisturbed():
            # Propose
            step_plan = plan(current)
            # A draft that is kept whole brings one token more, as the last plain step would.
            if num_cached + 1 + step_plan.candidates.max_depth >= base.context_length:
                step_plan = plain
            draft, expected = propose(step_plan, base, heads, hidden, text[: num_cached + 1])  # N nodes
            # Verify
            positions = num_cached + draft.depths  # (N,)
            all_hidden = base.forward(draft.ids[None], context.cache, positions, draft.visible)[0]  # (N, D)
            logits = base.logits(all_hidden)  # (N, V)
            # Accept
            rule = accept or ACCEPTANCE_RULES[current.acceptance]
            accepted = rule(logits, draft, current, uniforms[num_cached:])
            # Commit
            kept_ids = draft.ids[accepted.path]
            text[num_cached : num_cached + len(accepted.path)] = kept_ids
            kept = kept_ids.tolist()
            context.commit(accepted.path, kept)
            hidden = all_hidden[accepted.path[-1] :][:1]
            root = accepted.next_root
            origins, head_depth = origins_of(draft, accepted.path)
        seconds = time.perf_counter() - started
        yield Step([*kept[1:], root], origins, len(draft), seconds, head_depth, expected)


def new_context(base: BaseModel, heads: MedusaHeads | None, kv_cache: KVPrecision = "full") -> Context:
    """An empty conversation with these models."""
    context = Context(base.new_cache(kv_cache=kv_cache))
    context.graphs = _new_graphs(base, heads)
    return context


def shortened_context(context: Context, base: BaseModel, heads: MedusaHeads | None) -> Context:
    """What of a context fits the base's context length, after that has become shorter; nothing of it if there
    is no memory even to move it. Takes the context's memory.
    """
    cache, context.graphs = context.cache, None
    # A prefill that was broken off left rows whose ids are not in the context.
    cache.truncate(min(len(context.ids), base.context_length))
    del context.ids[cache.length :]
    try:
        cache.shrink(base.context_length + SPARE_ROWS)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        precision = cache.precision
        del cache, context.cache
        return new_context(base, heads, precision)
    return Context(cache, context.ids, _new_graphs(base, heads))


def _new_graphs(base: BaseModel, heads: MedusaHeads | None) -> StepGraphs | None:
    if not base.runs_in_graphs:
        return None
    from medusa_chat.decoding.step_graphs import StepGraphs  # Triton's, which only a GPU's torch brings

    return StepGraphs(base, heads)
