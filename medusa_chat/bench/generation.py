"""transformers' own generate() on the same weights: what decoding costs without this engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from medusa_chat.checkpoints import ensure_local
from medusa_chat.engine.opening import load_tokenizer
from medusa_chat.engine.prompt import Prompter
from medusa_chat.model.attention import GROUPED_ATTENTION
from medusa_chat.model.base import BaseModel
from medusa_chat.model.loading import load_base_model
from medusa_chat.prompt_file import UserPrompt
from medusa_chat.records import EngineInfo, LoadProgress, LoadRequest, Message
from medusa_chat.registry import ModelSpec, resolve

_WARM_UP_TOKENS = 4


def load_again(
    request: LoadRequest, info: EngineInfo, on_progress: Callable[[LoadProgress], None]
) -> tuple[ModelSpec, Path, BaseModel]:
    """The model that was loaded, its folder, and another copy of its weights, held as `info` says."""
    spec = resolve(request.model)
    folder = ensure_local(spec, on_progress)
    dtype: torch.dtype = getattr(torch, info.dtype)
    return spec, folder, load_base_model(folder, info.quantization, torch.device(info.device), dtype)


def measure_generate(
    request: LoadRequest,
    info: EngineInfo,
    prompts: Sequence[UserPrompt],
    max_tokens: int,
    on_progress: Callable[[LoadProgress], None],
) -> dict[str, Any]:
    """Answers the prompts greedily by generate(), with the weights held as `info` says of the engine.

    Loads its own copy, since an engine may have taken the weights out of transformers' modules: close the
    session first. Rates are over decode steps, as those of the engine.
    """
    on_progress(LoadProgress("Loading the model for transformers' generate()"))
    spec, folder, base = load_again(request, info, on_progress)
    prompter = Prompter(load_tokenizer(spec, folder), base.context_length)
    prompt_ids = [prompter.render([Message("user", p.text)], max_tokens).ids for p in prompts]
    generate_greedily(base.causal_lm, prompt_ids[0], _WARM_UP_TOKENS)
    seconds: list[float] = []
    for number, ids in enumerate(prompt_ids, start=1):
        seconds += generate_greedily(base.causal_lm, ids, max_tokens).step_seconds
        on_progress(LoadProgress(f"generate() {number} of {len(prompt_ids)}", number / len(prompt_ids)))
    return {
        "tokens_per_second": len(seconds) / sum(seconds) if seconds else None,
        "ms_per_step": 1000 * sum(seconds) / len(seconds) if seconds else None,
        "prompts": len(prompts),
    }


@dataclass(slots=True)
class Generated:
    """A reply of generate(), as its streamer: the prompt comes first, then each token as it is known."""

    ids: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    @property
    def step_seconds(self) -> list[float]:
        """Of each token but the first, which is the prefill's."""
        return [end - start for start, end in pairwise(self.times[1:])]

    def put(self, ids: torch.Tensor) -> None:
        """(1, T) prompt or (1,) token, already on the host: the device is done with it."""
        self.times.append(time.perf_counter())
        if len(self.times) > 1:
            self.ids += ids.tolist()

    def end(self) -> None:
        """generate() calls this last."""


def generate_greedily(causal_lm: Any, prompt_ids: Sequence[int], max_tokens: int) -> Generated:
    """One reply with transformers' own attention and cache; ends at the model's EOS."""
    attention = causal_lm.config._attn_implementation
    if attention == GROUPED_ATTENTION:
        causal_lm.set_attn_implementation("sdpa")  # what transformers itself would have chosen
    reply = Generated()
    ids = torch.tensor([prompt_ids], device=causal_lm.device)
    causal_lm.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=1.0,
        max_new_tokens=max_tokens,
        streamer=reply,
    )
    causal_lm.set_attn_implementation(attention)
    return reply
