"""From one row of logits to a token: temperature, top-k, top-p, min-p, in that order, then one draw."""

from __future__ import annotations

import torch

from medusa_chat.records import SamplingOptions


def probabilities(logits: torch.Tensor, options: SamplingOptions) -> torch.Tensor:
    """(V,) logits -> (V,) float32 probabilities after temperature (above 0) and filters."""
    logits = logits.float() / options.temperature
    if 0 < options.top_k < logits.shape[-1]:
        threshold = logits.topk(options.top_k).values[-1]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    probs = logits.softmax(-1)
    if options.top_p < 1.0:
        probs = _renormalised(probs, _nucleus(probs, options.top_p))
    if options.min_p > 0.0:
        probs = _renormalised(probs, probs >= options.min_p * probs.max())
    return probs


def choose(logits: torch.Tensor, options: SamplingOptions, generator: torch.Generator | None) -> int:
    """(V,) logits -> one token id: the argmax at temperature 0, else one draw."""
    if options.temperature == 0.0:
        return int(greedy(logits))
    return int(torch.multinomial(probabilities(logits, options), 1, generator=generator))


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """(…, V) logits -> (…) ids; the first of equals, which are common in bfloat16."""
    return logits.float().argmax(-1)  # torch's bfloat16 argmax takes four times as long on a CPU


def _nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """(V,) bool: the fewest most probable tokens whose mass reaches top_p."""
    # Most nuclei are small, and sorting a whole vocabulary costs milliseconds on a CPU: widen as needed.
    count = min(64, probs.shape[-1])
    while True:
        values, ids = probs.topk(count)
        mass = values.cumsum(-1)
        if count == probs.shape[-1] or mass[-1] >= top_p:
            break
        count = min(count * 16, probs.shape[-1])
    kept = ids[(mass - values) < top_p]
    return torch.zeros_like(probs, dtype=torch.bool).scatter_(0, kept, True)


def _renormalised(probs: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    probs = probs.masked_fill(~keep, 0.0)
    return probs / probs.sum()
