"""A decoding loop for transformers: `model.generate(…, custom_generate=MedusaGenerate(heads))`.

generate() prepares everything as it does for its own loops; here its tokens come several a step. A row of
logits goes through generate()'s processors only where the walk down the verified draft comes by, one token
after the other, and each token is shown to the stopping criteria before the next is chosen. So any processor
and criterion holds as it does there, and sampling takes the same random numbers: the same seed gives the same
tokens as generate() alone, but for near-ties, which the rounding of a forward of several rows may tip.

The model stays as it is: its own forward runs, with its own attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from medusa_chat.checkpoints import ensure_heads
from medusa_chat.decoding.acceptance import Acceptance, Walk
from medusa_chat.decoding.draft import Draft
from medusa_chat.decoding.generate import Context, generate
from medusa_chat.decoding.planning import Plan, fixed_plan
from medusa_chat.decoding.proposing import dynamic_candidates
from medusa_chat.engine.opening import OpenModel, heads_source, model_in_memory, open_heads
from medusa_chat.errors import HeadsMismatch, PromptTooLong, UnsupportedModel, UsageError
from medusa_chat.model.attention import GROUPED_ATTENTION
from medusa_chat.model.base import BaseModel
from medusa_chat.model.head_files import outline_heads
from medusa_chat.model.heads import MedusaHeads
from medusa_chat.model.loading import check_trees_work
from medusa_chat.records import SamplingOptions

_TAKES_TREES = ("sdpa", "eager", GROUPED_ATTENTION)
# What generate() hands to each of its loops besides; of a cache, an empty one.
_EXPECTED = frozenset({"attention_mask", "position_ids", "use_cache", "logits_to_keep"})
_CACHES = ("cache", "past_key_values")  # its name changed


@dataclass(frozen=True, slots=True)
class _Prepared:
    """For one model, as it was then."""

    base: BaseModel
    heads: MedusaHeads | None
    plan: Plan

    def fits(self, model: Any) -> bool:
        weight = model.get_input_embeddings().weight
        place = (weight.device, weight.dtype)
        return self.base.causal_lm is model and (self.base.device, self.base.dtype) == place


class MedusaGenerate:
    """What `custom_generate` takes. Keeps the heads of the model that it ran last."""

    def __init__(self, heads: str | None, tree_size: int) -> None:
        """heads: as for --heads; None: drafts come from the text so far alone."""
        SamplingOptions(tree_size=tree_size)  # or ValueError
        self._heads = heads
        self._tree_size = tree_size
        self._prepared: _Prepared | None = None

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        stream_to: Any = None,
        **model_kwargs: Any,
    ) -> torch.Tensor:
        """generate() calls it. input_ids (1, T) -> (1, T + number of new tokens).

        stream_to: a streamer; generate() doesn't hand its `streamer=` to loops that aren't its own.
        Raises UsageError for what generate() could do and this can't, PromptTooLong for more tokens than the
        model's context, UnsupportedModel, and of the heads what open_heads raises.
        """
        try:
            objection = next(_objections(model, input_ids, generation_config, model_kwargs), None)
            if objection is not None:
                raise UsageError(objection)
            if self._prepared is None or not self._prepared.fits(model):
                self._prepared = None
                self._prepared = _prepare(model, self._heads, self._tree_size)
            reply = _Reply(input_ids, logits_processor, stopping_criteria, generation_config.do_sample)
            return _decode(self._prepared, reply, generation_config.max_length, stream_to)
        finally:
            if stream_to is not None:
                stream_to.end()  # who reads it, perhaps in another thread, waits for that


class _Reply:
    """The text so far, and what generate()'s own loop would append to it."""

    def __init__(self, input_ids: torch.Tensor, processors: Any, criteria: Any, do_sample: bool) -> None:
        self.prompt = input_ids  # (1, T)
        self.ids = input_ids  # (1, T + new ones)
        self.is_over = False
        self._processors, self._criteria, self._do_sample = processors, criteria, do_sample

    def accept(
        self, logits: torch.Tensor, draft: Draft, options: SamplingOptions, uniforms: torch.Tensor
    ) -> Acceptance:
        """An acceptance rule. logits (N, V)."""
        walk = Walk(draft)
        while True:
            token = self._append(logits[walk.node])
            if self.is_over or not walk.follow(token):
                return Acceptance(walk.path, token)

    def _append(self, logits: torch.Tensor) -> int:
        """logits (V,)"""
        scores = logits[None].to(self.ids.device, torch.float32, copy=True)  # processors may write into them
        scores = self._processors(self.ids, scores)  # (1, V)
        if self._do_sample:
            token = torch.multinomial(scores.softmax(-1), 1)  # (1, 1)
        else:
            token = scores.argmax(-1, keepdim=True)
        self.ids = torch.cat([self.ids, token], dim=-1)
        self.is_over = bool(self._criteria(self.ids, None).all())
        return int(token)


def _decode(prepared: _Prepared, reply: _Reply, max_length: int, stream_to: Any) -> torch.Tensor:
    base, prompt = prepared.base, reply.prompt
    if max_length > base.context_length:
        raise PromptTooLong(
            f"Prompt and new tokens may become {max_length:,}, but this model's context is "
            f"{base.context_length:,}; lower max_new_tokens."
        )
    if stream_to is not None:
        stream_to.put(prompt.cpu())
    options = SamplingOptions(temperature=0.0, max_tokens=max_length)  # only `reply` decides
    steps = generate(
        base,
        prepared.heads,
        Context(base.new_cache()),
        prompt[0].tolist(),
        lambda: options,
        lambda _: prepared.plan,
        generator=torch.Generator(),  # the global one is left to the sampling
        accept=reply.accept,
    )
    new_ids: list[int] = []
    for step in steps:
        new_ids += step.ids
        if stream_to is not None:
            for token in step.ids:
                stream_to.put(torch.tensor([token]))
        if reply.is_over:
            break
    return torch.cat([prompt, prompt.new_tensor([new_ids])], dim=-1)


def _prepare(model: Any, asked: str | None, tree_size: int) -> _Prepared:
    attention = model.config.get_text_config()._attn_implementation
    if attention not in _TAKES_TREES:
        raise UnsupportedModel(
            f"A draft tree can't be verified by {attention} attention; call "
            'model.set_attn_implementation("sdpa") first.'
        )
    opened = model_in_memory(model, BaseModel(model), tokenizer=None)
    check_trees_work(opened.base)
    heads = _unmerged_heads(opened, asked)
    candidates = dynamic_candidates(heads, opened.base.device)
    return _Prepared(opened.base, heads, fixed_plan(candidates, tree_size))


def _unmerged_heads(opened: OpenModel, asked: str | None) -> MedusaHeads | None:
    """Opening heads merges the adapter that they were trained with into the model, which isn't ours here."""
    place = heads_source(opened.spec, None, asked)
    if place is None:
        return None
    if outline_heads(ensure_heads(place, lambda progress: None)).adapter != opened.base.adapter:
        raise HeadsMismatch(
            f"The heads {asked} go with an adapter, which would change your model; "
            "use medusa_chat.load(), which merges it."
        )
    return open_heads(opened, asked)


def _objections(
    model: Any, input_ids: torch.Tensor, config: Any, model_kwargs: Mapping[str, Any]
) -> Iterator[str]:
    """What to say to all but one prompt of tokens for a decoder, to be answered greedily or by sampling."""
    if model.config.is_encoder_decoder:
        yield "Medusa heads draft for decoder-only models; this one has an encoder."
    if model.training:
        yield "The model is being trained; call model.eval() first."
    mode = config.get_generation_mode()
    if mode not in ("greedy_search", "sample"):
        kind = mode.value.replace("_", " ")
        yield f"Medusa heads draft for greedy decoding and sampling, not {kind}; leave custom_generate out."
    if len(input_ids) != 1:
        yield (
            f"Medusa heads draft for one sequence at a time, not for {len(input_ids)}; "
            "call generate() once for each."
        )
    given = {name for name, value in model_kwargs.items() if value is not None}
    unknown = given.difference(_EXPECTED, _CACHES)
    if unknown:
        yield f"The prompt is made of tokens alone; leave {', '.join(sorted(unknown))} out."
    if config.return_dict_in_generate:
        yield "Only the tokens are returned; leave return_dict_in_generate out."
    mask, positions = model_kwargs.get("attention_mask"), model_kwargs.get("position_ids")
    if mask is not None and not bool(mask.all()):
        yield "The prompt is padded; tokenize it without padding."
    if positions is not None and positions.flatten().tolist() != list(range(input_ids.shape[1])):
        yield "Positions are counted from 0; leave position_ids out."
    if any(_is_users(model_kwargs.get(name)) for name in _CACHES):
        yield "Keys and values are kept in a cache of another kind; leave yours out."


def _is_users(cache: Any) -> bool:
    return cache is not None and (getattr(cache, "_is_user_defined", False) or cache.get_seq_length() > 0)
