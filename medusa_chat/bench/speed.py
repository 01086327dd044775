"""Plain decoding against Medusa: every prompt answered both ways, alternating, greedy by the same session."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medusa_chat.decoding.chosen_tree import asked_size
from medusa_chat.engine.session import Session
from medusa_chat.prompt_file import UserPrompt
from medusa_chat.records import Chunk, Message, SamplingOptions
from medusa_chat.statistics import ReplyStatistics

OWN_PROMPTS = Path(__file__).with_name("prompts.jsonl")
_UNNAMED = "all"


@dataclass(slots=True)
class Comparison:
    """Sums over the prompts of one category."""

    plain: ReplyStatistics = field(default_factory=ReplyStatistics)
    medusa: ReplyStatistics = field(default_factory=ReplyStatistics)
    num_prompts: int = 0
    num_identical: int = 0

    def report(self) -> dict[str, Any]:
        """Rates over decode steps; prefill is not counted on either side."""
        plain, medusa = self.plain.tokens_per_second, self.medusa.tokens_per_second
        return {
            "plain": {"tokens_per_second": plain, "ms_per_step": _ms_per_step(self.plain)},
            "medusa": {
                "tokens_per_second": medusa,
                "ms_per_step": _ms_per_step(self.medusa),
                "tokens_per_step": self.medusa.tokens_per_step,
                "accepted_histogram": self.medusa.accepted_histogram,
            },
            "speedup": medusa / plain if medusa and plain else None,
            "identical": self.num_identical,
            "prompts": self.num_prompts,
        }


def compare(
    session: Session,
    prompts: Sequence[UserPrompt],
    options: SamplingOptions,
    on_prompt: Callable[[int], None],
) -> dict[str, Any]:
    """The report of `bench`: totals, each category, what ran on what. Options should be greedy or seeded,
    else `identical` says nothing.
    """
    total = Comparison()
    categories: dict[str, Comparison] = defaultdict(Comparison)
    for number, prompt in enumerate(prompts, start=1):
        parts = (total, categories[prompt.category or _UNNAMED])
        # Which goes first alternates, so that a machine that slows down favours neither.
        replies = {
            drafting: _answer(session, prompt, options, drafting=drafting)
            for drafting in ((False, True) if number % 2 else (True, False))
        }
        for part in parts:
            for stats, reply in ((part.plain, replies[False]), (part.medusa, replies[True])):
                for chunk in reply:
                    stats.add(chunk.step)
            part.num_prompts += 1
            part.num_identical += _ids(replies[False]) == _ids(replies[True])
        on_prompt(number)
    info = session.info
    return {
        **total.report(),
        "categories": {name: part.report() for name, part in categories.items()},
        "tree_size": asked_size(options) or info.tree_size,
        "max_tokens": options.max_tokens,
        "model": info.model,
        "quantization": info.quantization,
        "dtype": info.dtype,
        "kv_cache": info.kv_cache,
        "lm_head": info.lm_head,
        "device": info.device,
        "machine": f"{info.device_name}, {platform.system()} {platform.machine()}",
    }


def over_generate(report: dict[str, Any], generated: dict[str, Any]) -> dict[str, Any]:
    """What `compare`'s report gains from generate()'s. Its rate on the first prompts stands for all: a plain
    step costs the same whatever is said, while how many drafts are accepted is an average over many prompts.
    """
    medusa, baseline = report["medusa"]["tokens_per_second"], generated["tokens_per_second"]
    return {
        "generate": generated,
        "speedup_over_generate": medusa / baseline if medusa and baseline else None,
    }


def _answer(session: Session, prompt: UserPrompt, options: SamplingOptions, *, drafting: bool) -> list[Chunk]:
    session.options = replace(options, drafting=drafting)
    return [item for item in session.reply([Message("user", prompt.text)]) if isinstance(item, Chunk)]


def _ids(reply: list[Chunk]) -> list[int]:
    return [token for chunk in reply for token in chunk.ids]


def _ms_per_step(stats: ReplyStatistics) -> float | None:
    return 1000 * stats.decode_seconds / stats.steps if stats.steps else None
