"""One loaded model and one conversation's cache: messages in, chunks of a reply out."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, Self

import torch

from medusa_chat.decoding.chosen_tree import check_heads_reach, chosen_tree
from medusa_chat.decoding.draft import Pool
from medusa_chat.decoding.generate import Step, generate, new_context, shortened_context
from medusa_chat.decoding.planning import (
    Plan,
    SizeChooser,
    fixed_plan,
    plain_plan,
)
from medusa_chat.decoding.preparing import prepare_kernels
from medusa_chat.decoding.proposing import dynamic_candidates, static_candidates
from medusa_chat.decoding.tree import Tree, best_tree, expected_tokens, published_paths
from medusa_chat.decoding.tuning import choose_tree_size, measure_sizes, measure_step
from medusa_chat.engine.clock import LoadClock
from medusa_chat.engine.energy import energy_meter
from medusa_chat.engine.memory import plan_load, record_load, shortened
from medusa_chat.engine.opening import OnProgress, OpenModel, compile_ahead, fetch, open_heads, open_model
from medusa_chat.engine.prompt import Prompter
from medusa_chat.engine.spans import SpanQueue
from medusa_chat.engine.text import Detokenizer, StopScanner
from medusa_chat.errors import OutOfMemory
from medusa_chat.memory_plan import LEAST_COMFORT, STEP, MemoryPlan
from medusa_chat.model.base import BaseModel
from medusa_chat.model.fastest import fastest
from medusa_chat.model.giving_back import give_back_unused
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.loading import device_name, is_out_of_memory
from medusa_chat.model.memory import bytes_of_this_process, parts_taken
from medusa_chat.records import (
    BASE_ORIGIN,
    BUILT_TREES,
    Chunk,
    EngineInfo,
    FinishReason,
    LoadProgress,
    LoadRequest,
    Message,
    ReplyStarted,
    SamplingOptions,
    StepStats,
)

# Of those planned since load: the first reply soon has its measure, later ones give under 1% of their speed.
_FIRST_PLAIN_STEPS = (4, 8, 16, 24)
_STEPS_PER_PLAIN_STEP = 32


class Session:
    """Answers messages with one model. Not for several threads, but `options` and `cancelled` may be set
    from another one while a reply is under way: both are looked at before every step.

    times_plain_steps: on a CPU, decode a step plainly now and then, though drafting is on. Without, what
    drafting gains can't be told: steps take longer or shorter with whatever else the machine does. It costs
    less than 1% of the speed, and changes no token.
    """

    def __init__(self, model: OpenModel, heads: MedusaHeads | None, remarks: tuple[str, ...] = ()) -> None:
        """Measures step times for each tree size, which takes a second or two on a CPU."""
        self.options = SamplingOptions()
        self.cancelled = False
        self.times_plain_steps = False
        self._num_planned = 0
        base = model.base
        # An adapted model is another one: its words may differ.
        self._name = model.spec.name + ("+adapter" if base.adapter else "")
        self._quantization = model.quantization
        self._kv_cache, self._lm_head = model.kv_cache, model.lm_head
        self._tokenizer = model.tokenizer
        self._base = base
        self._heads = heads
        self._remarks = remarks
        self._prompter = Prompter(model.tokenizer, base.context_length)
        self._context = new_context(base, heads, self._kv_cache)
        self._eos_ids = eos_ids(base, model.tokenizer)
        self._path_probability = (
            {} if heads is None else heads.calibration or published_paths(heads.num_heads)
        )
        self._plain = plain_plan(base.device)
        self._candidates = dynamic_candidates(heads, base.device)
        self._headless = dynamic_candidates(None, base.device)
        self._tree = cache(self._best_tree)
        self._static_plan = cache(self._best_plan)
        self._chosen_plan = cache(self._plan_of)
        self._fixed_plan = cache(partial(fixed_plan, self._candidates))
        self._step_seconds = measure_sizes(
            lambda size: measure_step(base, heads, self._context, self._fixed_plan(size)),
            len(self._candidates),
        )
        expected = {
            size: expected_tokens(self._tree(size), self._path_probability) for size in self._step_seconds
        }
        self._tree_size = choose_tree_size(self._step_seconds, expected) if heads is not None else 1
        self._chooser = SizeChooser(expected)
        self._energy = energy_meter(base.device)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def info(self) -> EngineInfo:
        heads = self._heads
        return EngineInfo(
            model=self._name,
            quantization=self._quantization,
            device=self._base.device.type,
            device_name=device_name(self._base.device),
            dtype=str(self._base.dtype).removeprefix("torch."),
            context_length=self._base.context_length,
            num_heads=0 if heads is None else heads.num_heads,
            tree_size=self._tree_size,
            memory_bytes=sum(self._parts_taken().values()),
            step_seconds=dict(self._step_seconds),
            remarks=self._remarks,
            energy_source=self._energy.source,
            kv_cache=self._kv_cache,
            lm_head=self._lm_head,
        )

    def reply(self, messages: Sequence[Message]) -> Iterator[ReplyStarted | Chunk]:
        """Yields ReplyStarted, then Chunks; the last carries a finish_reason.

        Closing the generator between chunks, or setting `cancelled`, ends the reply and leaves the cache
        usable. Raises PromptTooLong, UnsupportedModel if the model has no chat template, or UsageError if the
        options choose a tree that is none or deeper than the heads.
        """
        if self.options.drafting and self.options.tree not in BUILT_TREES:
            self._chosen_plan(self.options.tree)  # a wrong one is told before the prompt is read
        prompt = self._prompter.render(messages, self.options.max_tokens, self.options.context)
        num_cached = self._context.reuse(prompt.ids)
        yield ReplyStarted(len(prompt.ids), num_cached, prompt.num_dropped)
        detokenizer, scanner = Detokenizer(self._tokenizer), StopScanner(self.options.stop)
        spans = SpanQueue()
        for step in self._steps_in_memory(prompt.ids):
            if step.expected is not None:
                self._chooser.observe(step.expected, len(step.ids))
            if step.outlook is not None:
                self._chooser.see(step.outlook)
            pieces = detokenizer.feed(step.ids)
            for piece, origin in zip(pieces, step.origins, strict=True):
                spans.add(len(piece), origin)
            text = scanner.feed("".join(pieces))
            reason: FinishReason | None = "stop" if scanner.stopped else step.finish_reason
            if reason is None and self.cancelled:
                reason = "cancelled"
            if reason is not None and reason != "stop":
                text += scanner.flush()
            stats = self._stats(step, is_last=reason is not None)
            yield Chunk(text, tuple(step.ids), stats, reason, spans.take(len(text)))
            if reason is not None:
                return

    def record_load(self, plan: MemoryPlan | None, seconds: dict[str, float]) -> None:
        """Keeps for `doctor` what was planned, what is taken now, and the seconds that each part took."""
        process = bytes_of_this_process(self._base.device)
        record_load(self.info, plan, self._parts_taken(), process, seconds)

    def close(self) -> None:
        """Frees the model's memory."""
        self._heads = None
        del self._base, self._context
        give_back_unused()

    def _parts_taken(self) -> dict[str, int]:
        return parts_taken(self._base, self._heads, self._context.cache)

    def _steps_in_memory(self, prompt_ids: Sequence[int]) -> Iterator[Step]:
        try:
            yield from self._steps(prompt_ids)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold tensors
            raise OutOfMemory(self._make_room()) from error

    def _make_room(self) -> str:
        """After memory ran out: gives the context no more than was reached, the rows that fit kept. Returns
        what to tell the user.
        """
        reached = self._context.cache.length
        said = f"Memory ran out at {reached:,} tokens of context; what was said is kept."
        smaller = "a smaller --quant" + (" or --kv-cache 8bit" if self._kv_cache == "full" else "")
        length = (reached - 1) // STEP * STEP
        if length < LEAST_COMFORT:
            self._context = new_context(self._base, self._heads, self._kv_cache)
            return (
                f"{said} Start a new conversation, choose a smaller tree, or load the model with {smaller}."
            )
        self._base.context_length = length
        self._prompter = Prompter(self._tokenizer, length)
        self._context = shortened_context(self._context, self._base, self._heads)
        return (
            f"{said} The context is {length:,} tokens from now on, and what doesn't fit is left out, oldest "
            f"first. Loaded with {smaller}, it would have room for more."
        )

    def _steps(self, prompt_ids: Sequence[int]) -> Iterator[Step]:
        generator = torch.Generator()
        if self.options.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.options.seed)
        return generate(
            self._base,
            self._heads,
            self._context,
            prompt_ids,
            lambda: self.options,
            self._plan,
            eos_ids=self._eos_ids,
            generator=generator,
        )

    def _plan(self, options: SamplingOptions) -> Plan:
        if not options.drafting or (self.times_plain_steps and self._is_plain_step_due()):
            return self._plain
        if options.tree == "static":
            return self._static_plan(options.tree_size or self._tree_size)
        if options.tree != "dynamic":
            return self._chosen_plan(options.tree)
        if options.tree_size is not None:
            return self._fixed_plan(options.tree_size)
        if self._context.graphs is not None:
            return self._fixed_plan(self._chooser.choose_ahead(self._step_seconds))
        candidates = self._headless if self._chooser.is_resting() else self._candidates
        return Plan(candidates, self._choose_size, max(self._step_seconds))

    def _is_plain_step_due(self) -> bool:
        # Where graphs run the steps the machine is a GPU's, on which the times at load stay true.
        if self._context.graphs is not None:
            return False
        self._num_planned += 1
        return self._num_planned in _FIRST_PLAIN_STEPS or self._num_planned % _STEPS_PER_PLAIN_STEP == 0

    def _choose_size(self, pool: Pool) -> int:
        expected = pool.expected.tolist()
        seconds = {size: seconds for size, seconds in self._step_seconds.items() if size <= len(expected)}
        return self._chooser.choose({size: expected[size - 1] for size in seconds}, seconds)

    def _best_plan(self, num_nodes: int) -> Plan:
        return self._plan_always(self._tree(num_nodes))

    def _plan_of(self, choice: str) -> Plan:
        tree = chosen_tree(choice)
        heads = self._heads
        vocabulary = None if heads is None else heads.vocabulary
        num_tokens = self._base.vocab_size if vocabulary is None else len(vocabulary)
        check_heads_reach(tree, choice, 0 if heads is None else heads.num_heads, num_tokens)
        return self._plan_always(tree)

    def _plan_always(self, tree: Tree) -> Plan:
        return Plan(static_candidates(self._heads, tree.paths, self._base.device))

    def _best_tree(self, num_nodes: int) -> Tree:
        return best_tree(self._path_probability, num_nodes)

    def _stats(self, step: Step, *, is_last: bool) -> StepStats:
        is_prefill = step.num_nodes == 0
        return StepStats(
            step.num_nodes,
            len(step.ids),
            step.seconds,
            len(self._context.ids),
            step.head_depth,
            sum(origin > BASE_ORIGIN for origin in step.origins),
            self._energy.mark() if is_prefill else self._energy.used(at_once=is_last),
            is_plain=step.num_nodes == 1 and (step.expected is None or self._context.graphs is not None),
        )


def eos_ids(base: BaseModel, tokenizer: Any) -> frozenset[int]:
    """What ends a reply."""
    generation = base.causal_lm.generation_config
    declared = generation.eos_token_id if generation is not None else None
    ids = declared if isinstance(declared, list) else [declared]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)


def open_session(request: LoadRequest, on_progress: OnProgress) -> Session:
    """Resolves, fetches, plans the memory, loads and measures. Raises a MedusaError whose text says what to
    do; OutOfMemory before anything large is read.
    """
    compile_ahead(request)
    plan = plan_load(request, fetch(request, on_progress))
    clock = LoadClock()
    model = open_model(request, on_progress)
    clock.end("reading")
    session = session_with(model, request.heads, plan, request.context_length, on_progress, clock)
    session.record_load(plan, clock.seconds)
    return session


def session_with(
    model: OpenModel,
    heads: str | None,
    plan: MemoryPlan | None = None,
    asked_context: int | None = None,
    on_progress: OnProgress = lambda progress: None,
    clock: LoadClock | None = None,
) -> Session:
    """One that takes over the model's weights; with the heads asked for or those that belong to it, and the
    context that was planned or, without a plan, at most the one asked for. Raises a MedusaError if the heads
    don't go with the model.
    """
    opened = open_heads(model, heads)
    remarks = () if opened is None else opened.remarks
    own = model.base.context_length
    model.base.context_length = min(own, plan.context_length if plan else asked_context or own)
    if plan is not None and asked_context is None and plan.context_length < own:
        remarks += (shortened(plan, own),)
    base, fast_heads = fastest(model.base, opened, model.lm_head)
    give_back_unused()  # what loading took and quantising gave back
    clock = clock or LoadClock()
    clock.end("packing")
    prepare_kernels(base, fast_heads, model.kv_cache, on_progress)
    give_back_unused()
    clock.end("kernels")
    on_progress(LoadProgress("Measuring step times"))
    session = Session(replace(model, base=base), fast_heads, remarks)
    clock.end("measuring")
    return session
