"""Whether an adapted model is as good as its base, judged by how both read text that neither has learnt from.

Where a text is the base's own greedy reply, reading tells how far the adapted model would have said the same:
up to the first token that it chooses otherwise, its greedy reply is the base's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from medusa_chat.errors import UsageError
from medusa_chat.model.base import BaseModel
from medusa_chat.training.dialogues import Dialogues

_TOKENS = 4096  # of a forward
_ROWS = 256  # whose logits exist at once


@dataclass(frozen=True, slots=True)
class Reading:
    """How a model reads dialogues (n, T): of each token but the first, surprise (n, T - 1), −log of its
    probability, and choice (n, T - 1), the token that the model would have put there.
    """

    surprise: torch.Tensor
    choice: torch.Tensor


@dataclass(frozen=True, slots=True)
class Quality:
    """base_perplexity and perplexity: the base's and the adapted model's on num_tokens tokens. Of the base's
    num_replies greedy replies, agreement: share of their tokens that the adapted model would choose too,
    given what stands before; identical: share of them it would give word by word; tokens_in_common: mean
    length of what it says alike before the first difference, of tokens_a_reply.
    """

    num_tokens: int
    base_perplexity: float
    perplexity: float
    num_replies: int
    agreement: float
    identical: float
    tokens_in_common: float
    tokens_a_reply: float

    @property
    def ratio(self) -> float:
        """Of perplexities; below 1.01 nobody should notice."""
        return self.perplexity / self.base_perplexity

    def as_dict(self) -> dict[str, Any]:
        """For reports."""
        figures = {name: round(value, 5) for name, value in asdict(self).items()}
        return {**figures, "perplexity_ratio": round(self.ratio, 5)}


@torch.no_grad()
def read(base: BaseModel, dialogues: Dialogues) -> Reading:
    """Every token of them."""
    at_once = max(1, _TOKENS // dialogues.ids.shape[1])
    parts = [_read(base, ids.to(base.device).long()) for ids in torch.split(dialogues.ids, at_once)]
    return Reading(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def compare(base: Reading, adapted: Reading, dialogues: Dialogues) -> Quality:
    """Over the dialogues' answers, some of which must be greedy ones, as the base gave them."""
    agrees = base.choice == adapted.choice
    greedy = dialogues.greedy.nonzero()[:, 0].tolist()
    replies = [agrees[row, place] for row in greedy for place in _runs(dialogues.answer[row, 1:])]
    lengths = torch.tensor([len(reply) for reply in replies])
    in_common = torch.tensor([int(reply.int().cumprod(0).sum()) for reply in replies])
    return Quality(
        num_tokens=int(dialogues.answer[:, 1:].sum()),
        base_perplexity=perplexity(base, dialogues),
        perplexity=perplexity(adapted, dialogues),
        num_replies=len(replies),
        agreement=float(torch.cat(replies).float().mean()),
        identical=float((in_common == lengths).float().mean()),
        tokens_in_common=float(in_common.float().mean()),
        tokens_a_reply=float(lengths.float().mean()),
    )


def perplexity(reading: Reading, dialogues: Dialogues) -> float:
    """exp of the mean surprise at the answers' tokens."""
    return math.exp(float(reading.surprise[dialogues.answer[:, 1:]].double().mean()))


def as_dialogues(text: str, tokenizer: Any, length: int) -> Dialogues:
    """A text in pieces of `length` tokens, all of which count. Raises UsageError for a shorter one."""
    ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False), dtype=torch.int32)
    num_pieces = len(ids) // length
    if num_pieces == 0:
        raise UsageError(f"The text has only {len(ids):,} tokens; give one of at least {length:,}.")
    ids = ids[: num_pieces * length].view(num_pieces, length)
    return Dialogues(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros(num_pieces, dtype=torch.bool))


def _read(base: BaseModel, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """surprise and choice (B, T - 1) of ids (B, T)."""
    hidden, wanted = base.hidden_states(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    surprise, choice = [], []
    for rows, tokens in zip(torch.split(hidden, _ROWS), torch.split(wanted, _ROWS), strict=True):
        logits = base.logits(rows).float()  # (rows, V)
        surprise.append(F.cross_entropy(logits, tokens, reduction="none"))
        choice.append(logits.argmax(-1))
    shape = ids[:, 1:].shape
    return torch.cat(surprise).view(shape).cpu(), torch.cat(choice).view(shape).cpu()


def _runs(counts: torch.Tensor) -> Iterator[slice]:
    """Where there are unbroken runs of True in (T,)."""
    edges = F.pad(counts.int(), (1, 1)).diff().nonzero()[:, 0].tolist()
    return (slice(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True))
