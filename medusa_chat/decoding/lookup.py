"""Drafts without heads: what followed the last time the conversation said what it has just said.

Summaries, edits and answers from a given text repeat it, and so does a model that goes round in circles. The
longest suffix of the tokens that occurs before is looked up, and what stood behind it there joins the tree as
one chain. Only torch operations of fixed shapes that never wait for the device, as in draft.py.

Tokens per step of 16 nodes, default model and heads, greedy (replies of 160 and 128 tokens, counted offline):

                                               plain   chain   heads   both
    bench/prompts.jsonl: summary, edit,
      retrieval (12)                            1.00    3.13    1.86    4.15
    bench/prompts.jsonl: all others (24)        1.00    1.51    2.14    2.60
    MT-Bench, first turns (20)                  1.00    1.43    2.01    2.41

A good part of the last two is a small model that goes round in circles. A second chain (the latest other
continuation, four nodes) was tried: 1% more with heads, 2-4% without, not worth its nodes' bookkeeping.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F

MAX_CHAIN = 15  # tokens of a chain
_MAX_SUFFIX = 8  # 16 told chains apart no better

# Counted on the default model's own replies to bench/prompts.jsonl, for suffixes of 1, 2, … tokens: how often
# the first token behind it was right, and each further one if all before it were. How good they are hardly
# matters: all probabilities to the power of 0.7 or 1.4 changed tokens per step by 2%.
_FIRST_IS_RIGHT = (0.20, 0.50, 0.65, 0.70, 0.75, 0.85, 0.87, 0.95)
_NEXT_IS_RIGHT = (0.65, 0.75, 0.78, 0.82, 0.85, 0.86, 0.87, 0.96)


@dataclass(frozen=True, slots=True)
class Chain:
    """L tokens that may follow the root. ids (L,) int64. log_probs (L,) float32: that a token and all before
    it are right, never rising; -inf where nothing was found.
    """

    ids: torch.Tensor
    log_probs: torch.Tensor


def look_up(ids: torch.Tensor, length: torch.Tensor) -> Chain:
    """ids (capacity,) int64, of which the first length (), at least 1, are the conversation, root included.

    Of equally long suffixes the latest counts. Behind the conversation's end a chain begins again where it
    began, as a repetition would.
    """
    capacity, device = ids.shape[0], ids.device
    # (capacity, S): the S tokens up to each place; -1 stands before the first and is no token.
    windows = F.pad(ids, (_MAX_SUFFIX - 1, 0), value=-1).unfold(0, _MAX_SUFFIX, 1)
    suffix = windows.index_select(0, length.view(1) - 1)  # (1, S)
    weights = torch.arange(1, _MAX_SUFFIX + 1, device=device)  # most for the last token of a window
    matched = _MAX_SUFFIX - ((windows != suffix) * weights).amax(-1)  # (capacity,) equal tokens at the end
    places = torch.arange(capacity, device=device)
    matched = torch.where(places < length - 1, matched, 0)
    best = (matched * capacity + places * (matched > 0)).argmax(0, keepdim=True)  # (1,)
    start = best + 1
    period = (length - start).clamp(min=1)
    chain = ids[start + torch.arange(MAX_CHAIN, device=device) % period]
    return Chain(chain, _log_probs(device)[matched[best]][0])


@cache
def _log_probs(device: torch.device) -> torch.Tensor:
    """(S + 1, L): for each length of suffix, the joint log-probability of each token of the chain."""
    first = torch.tensor([0.0, *_FIRST_IS_RIGHT]).log()[:, None]
    further = torch.tensor([1.0, *_NEXT_IS_RIGHT]).log()[:, None] * torch.arange(MAX_CHAIN)
    return (first + further).to(device)
