"""What heads are worth: accuracy by teacher forcing, and tokens per step, to expect and measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from medusa_chat.decoder_memory import SPARE_ROWS
from medusa_chat.decoding.generate import generate, new_context
from medusa_chat.decoding.planning import Plan, fixed_plan, plain_plan
from medusa_chat.decoding.proposing import dynamic_candidates
from medusa_chat.decoding.tree import best_tree, expected_tokens
from medusa_chat.engine.opening import OpenModel
from medusa_chat.engine.prompt import Prompter
from medusa_chat.engine.session import eos_ids
from medusa_chat.errors import MedusaError
from medusa_chat.model.base import BaseModel
from medusa_chat.model.fastest import fastest
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.loading import device_name
from medusa_chat.prompt_file import UserPrompt
from medusa_chat.records import Message, SamplingOptions
from medusa_chat.training.accuracy import rank_targets, summarise
from medusa_chat.training.targets import gather_targets

SIZES = (4, 8, 16, 32, 64)
_CONTEXT = 4096  # tokens; more than a question and its answer take
_CHUNK = 128  # rows of a forward
_UNNAMED = "all"


@dataclass(slots=True)
class _Measured:
    """Sums over prompts: ranks of the true tokens, and tokens and steps of each way to draft."""

    ranks: list[torch.Tensor] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    steps: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    num_prompts: int = 0

    def report(self, calibration: dict[tuple[int, ...], float]) -> dict[str, Any]:
        accuracy = summarise(torch.cat(self.ranks))
        return {
            "prompts": self.num_prompts,
            "rows": accuracy.num_rows,
            "top_accuracy": {str(count): rates for count, rates in accuracy.top.items()},
            "expected": {
                str(size): expected_tokens(best_tree(calibration, size), accuracy.path_probability)
                for size in SIZES
            },
            "measured": {way: self.tokens[way] / max(1, self.steps[way]) for way in self.steps},
        }


def evaluate(
    model: OpenModel,
    heads: MedusaHeads,
    prompts: Sequence[UserPrompt],
    max_tokens: int,
    on_prompt: Callable[[int], None],
) -> dict[str, Any]:
    """Answers the prompts greedily and looks at how the heads would have done, and do.

    Gives `model, heads, device, machine, max_tokens` and, overall and in `categories` for each kind of
    prompt: `prompts`, `rows` looked at, `top_accuracy` {1, 3, 5, 10: of each head, given the true path},
    `expected` {nodes: tokens per step of the static tree that the heads' own calibration chooses},
    `measured` {nodes: tokens per step of dynamic trees by the heads alone; "lookup, nodes": as chat drafts,
    with what is looked up in the conversation}. Takes over the model's weights. Raises MedusaError if there
    is nothing to look at.
    """
    # Each answer has a cache of its own, which takes the memory of a whole context.
    model.base.context_length = min(model.base.context_length, max(_CONTEXT, 4 * max_tokens))
    base, fast_heads = fastest(model.base, heads)
    assert fast_heads is not None
    prompter = Prompter(model.tokenizer, base.context_length)
    alone, chained = (dynamic_candidates(fast_heads, base.device, chain=chain) for chain in (False, True))
    ways = {str(size): fixed_plan(alone, size) for size in SIZES}
    ways |= {f"lookup, {size}": fixed_plan(chained, size) for size in SIZES}
    options = SamplingOptions(temperature=0.0, max_tokens=max_tokens)
    ends = eos_ids(base, model.tokenizer)

    def answer(ids: Sequence[int], plan: Plan) -> tuple[list[int], int]:
        """The reply's tokens, and how many steps they took."""
        context = new_context(base, fast_heads)
        steps = list(generate(base, fast_heads, context, ids, lambda: options, lambda _: plan, eos_ids=ends))
        return [token for step in steps for token in step.ids], len(steps) - 1

    total, categories = _Measured(), defaultdict[str, _Measured](_Measured)
    for number, prompt in enumerate(prompts, start=1):
        ids = prompter.render([Message("user", prompt.text)], max_tokens).ids
        reply, _ = answer(ids, plain_plan(base.device))
        ranks = _ranks(base, heads, ids, reply)
        counts = {way: answer(ids, plan) for way, plan in ways.items()}
        for part in (total, categories[prompt.category or _UNNAMED]):
            part.num_prompts += 1
            part.ranks.append(ranks)
            for way, (tokens, num_steps) in counts.items():
                part.tokens[way] += len(tokens) - 1  # the first comes with the prompt
                part.steps[way] += num_steps
        on_prompt(number)
    calibration = heads.calibration
    if not sum(map(len, total.ranks)) or not calibration:
        raise MedusaError(
            "There is nothing to measure: the replies are too short, or the heads bring no calibration; "
            "use other --prompts, or heads that `medusa-chat train` made."
        )
    return {
        "model": model.spec.name,
        "heads": heads.kind,
        "device": base.device.type,
        "machine": device_name(base.device),
        "max_tokens": max_tokens,
        **total.report(calibration),
        "categories": {name: part.report(calibration) for name, part in categories.items()},
    }


@torch.inference_mode()
def _ranks(base: BaseModel, heads: MedusaHeads, prompt: Sequence[int], reply: Sequence[int]) -> torch.Tensor:
    """(n, K) as rank_targets gives them, over the reply."""
    ids = torch.tensor([[*prompt, *reply]], device=base.device)
    cache, hidden = base.new_cache(ids.shape[1] + SPARE_ROWS), []
    for chunk in torch.split(ids, _CHUNK, dim=1):
        hidden.append(base.forward(chunk, cache))
        cache.keep(range(chunk.shape[1]))
    answer = torch.zeros_like(ids, dtype=torch.bool)
    answer[:, len(prompt) :] = True
    if ids.shape[1] < heads.num_heads + 2:
        return torch.empty(0, heads.num_heads, dtype=torch.long)
    return rank_targets(base, heads, gather_targets(torch.cat(hidden, 1), ids, answer, heads.num_heads))
