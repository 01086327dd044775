"""How near a KV cache in 8 bits, or an LM head in 4, stays to the full one: greedy replies with what is full,
read with both.

A token's logits are the same bits whether it is read or was just written. So up to the first token that the
smaller one would choose otherwise, its own greedy reply is the one that is read.

Default model in bfloat16 on a CPU, 20 greedy replies of up to 128 tokens each; beside it what rounding the
rows to bfloat16 does, as a GPU's full cache has them:

                                  chosen alike   identical   before the first difference   nats a token
    MT-Bench, 8 bits                     97.5%     1 of 20               30 of 117 tokens         0.0018
    MT-Bench, bfloat16                   98.4%     3 of 20               45 of 117 tokens         0.0009
    prompts of our own, 8 bits           98.6%     6 of 20               62 of 108 tokens         0.0018
    prompts of our own, bfloat16         98.7%     6 of 20               62 of 108 tokens         0.0008

So half of what is seen there is what any change does to a model that rounds to bfloat16 between its layers.

Of the LM head, by the values it has in 4 bits, multiplied in float32, as GPUs sum; beside it what multiplying
the whole head so does:

    MT-Bench, 4 bits                     84.1%     0 of 20                4 of 117 tokens         0.0840
    MT-Bench, in full                    98.8%     5 of 20               56 of 117 tokens         0.0003
    prompts of our own, 4 bits           88.4%     0 of 20                8 of 108 tokens         0.0725
    prompts of our own, in full          98.7%     7 of 20               60 of 108 tokens         0.0003

And by the kernels themselves, on one H100, `bench --lm-head 4bit`:

    MT-Bench, 4 bits                     84.9%     0 of 20                3 of 123 tokens         0.0796
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from medusa_chat.bench.generation import load_again
from medusa_chat.decoding.generate import generate, new_context
from medusa_chat.decoding.planning import plain_plan
from medusa_chat.engine.opening import load_tokenizer
from medusa_chat.engine.prompt import Prompter
from medusa_chat.engine.session import eos_ids
from medusa_chat.model.base import BaseModel
from medusa_chat.model.fastest import fastest
from medusa_chat.prompt_file import UserPrompt
from medusa_chat.records import EngineInfo, KVPrecision, LoadProgress, LoadRequest, Message, SamplingOptions

_CHUNK = 128  # rows of a forward
Head = Callable[[torch.Tensor], torch.Tensor]  # (n, D) hidden states -> (n, V) logits


@dataclass(frozen=True, slots=True)
class Reading:
    """One reply of n tokens. agrees (n,): whether what is smaller would choose the same token; divergence
    (n,): of its distribution from the full one's, in nats.
    """

    agrees: torch.Tensor
    divergence: torch.Tensor


def measure_agreement(
    request: LoadRequest,
    info: EngineInfo,
    prompts: Sequence[UserPrompt],
    max_tokens: int,
    on_progress: Callable[[LoadProgress], None],
) -> dict[str, Any]:
    """Of the KV cache and the LM head that `info` tells with the full ones, with the other weights held as it
    says. Loads its own copy of them: close the session first.
    """
    on_progress(LoadProgress("Loading the model to compare it with itself in full"))
    spec, folder, loaded = load_again(request, info, on_progress)
    base, _ = fastest(loaded, None)
    head = base.logits if info.lm_head == "full" else _quantised_head(base)
    tokenizer = load_tokenizer(spec, folder)
    prompter, ends = Prompter(tokenizer, base.context_length), eos_ids(base, tokenizer)
    readings = []
    for number, prompt in enumerate(prompts, start=1):
        ids = prompter.render([Message("user", prompt.text)], max_tokens).ids
        reply = greedy_reply(base, ids, max_tokens, ends)
        readings.append(read(base, ids, reply, info.kv_cache, head))
        on_progress(LoadProgress(f"Agreement {number} of {len(prompts)}", number / len(prompts)))
    return summarise(readings)


def greedy_reply(
    base: BaseModel, prompt: Sequence[int], max_tokens: int, ends: frozenset[int] = frozenset()
) -> list[int]:
    """With the full cache and LM head, by plain decoding."""
    options, plain = SamplingOptions(temperature=0.0, max_tokens=max_tokens), plain_plan(base.device)
    context = new_context(base, None)
    steps = generate(base, None, context, prompt, lambda: options, lambda _: plain, eos_ids=ends)
    return [token for step in steps for token in step.ids]


@torch.inference_mode()
def read(
    base: BaseModel, prompt: Sequence[int], reply: Sequence[int], kv_cache: KVPrecision, head: Head
) -> Reading:
    """The reply to this prompt: with the base as it is, and with this cache and this head."""
    wanted = base.logits(_hidden(base, prompt, reply, "full")).float()  # (n, V)
    found = head(_hidden(base, prompt, reply, kv_cache)).float()
    distances = F.kl_div(
        found.log_softmax(-1), wanted.log_softmax(-1), reduction="none", log_target=True
    )  # (n, V)
    return Reading(found.argmax(-1) == wanted.argmax(-1), distances.sum(-1))


def summarise(readings: Sequence[Reading]) -> dict[str, Any]:
    """agreement: share of the tokens that would be chosen alike, given what stands before. identical: replies
    that would be the same to their end. tokens_in_common: of a reply before its first difference, of
    tokens_a_reply. divergence: nats a token.
    """
    agrees = torch.cat([reading.agrees for reading in readings]).float()
    in_common = [int(reading.agrees.int().cumprod(0).sum()) for reading in readings]
    lengths = [len(reading.agrees) for reading in readings]
    return {
        "replies": len(readings),
        "identical": sum(same == length for same, length in zip(in_common, lengths, strict=True)),
        "agreement": float(agrees.mean()),
        "tokens_in_common": sum(in_common) / len(readings),
        "tokens_a_reply": sum(lengths) / len(readings),
        "divergence": float(torch.cat([reading.divergence for reading in readings]).mean()),
    }


def _quantised_head(base: BaseModel) -> Head:
    from medusa_chat.model.fused import FusedModel  # Triton's

    assert isinstance(base, FusedModel)
    return base.quantised_lm_head().logits


def _hidden(
    base: BaseModel, prompt: Sequence[int], reply: Sequence[int], kv_cache: KVPrecision
) -> torch.Tensor:
    """(n, D): what each token of the reply was chosen from."""
    ids = torch.tensor([[*prompt, *reply[:-1]]], device=base.device)
    cache, hidden = base.new_cache(kv_cache=kv_cache), []
    for chunk in torch.split(ids, _CHUNK, dim=1):
        hidden.append(base.forward(chunk, cache))
        cache.keep(range(chunk.shape[1]))
    return torch.cat(hidden, 1)[0, len(prompt) - 1 :]
