"""The turns of many dialogues at once: position by position, without the host ever looking at one of them.

Each dialogue is at any position either in forced tokens (its start, the template) or free. What ends a turn
is looked for among its latest free tokens: one special token in most templates, in others several ordinary
ones in a row, such as " ASSISTANT:" (Vicuna) or " [/INST]" (Llama 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medusa_chat.training.template import TurnTokens

_NO_TOKEN = -1
_SHARE_OF_A_USER = 4  # a user's turn takes at most this part of a dialogue


class Lockstep:
    """n dialogues under way. ids (n, length) and answer (n, length) are as in Dialogues, up to the position
    that was written last; answering (n,) bool: which of them stand in an answer.
    """

    def __init__(
        self,
        turns: TurnTokens,
        starts: Sequence[Sequence[int]],
        length: int,
        *,
        answering: bool,
        device: torch.device,
    ) -> None:
        """starts: the forced beginnings. They end where an answer begins if `answering`, else where a user's
        turn does or in it.
        """
        passages = [turns.to_answer, turns.to_user]  # 0 ends a user's turn, 1 an answer
        self._starts, self._start_length = _padded(starts, device)  # (n, longest), (n,)
        self._passages, self._passage_length = _padded([p.ids for p in passages], device)  # (2, ·), (2,)
        endings, self._ending_length = _padded([p.ending[::-1] for p in passages], device)
        self._endings = endings.flip(1)  # (2, E), right-aligned, as they are looked for behind
        self._resume = torch.tensor([p.resume for p in passages], device=device)
        self._eos = _NO_TOKEN if turns.eos is None else turns.eos
        # Some users ramble on; answers are what is learnt from, so they are cut short.
        self._longest_turn = torch.tensor([length // _SHARE_OF_A_USER, length], device=device)
        n = len(starts)
        self.answering = torch.full((n,), answering, device=device)
        self._place = torch.zeros(n, dtype=torch.long, device=device)  # in the passage; 0: in a turn
        self._turn_length = torch.zeros(n, dtype=torch.long, device=device)  # tokens that were free so far
        num_before = self._endings.shape[1] - 1  # so that as many tokens can always be looked back at
        self._written = torch.full((n, num_before + length), _NO_TOKEN, device=device)
        self.ids = self._written[:, num_before:]
        self.ids[:, 0] = self._starts[:, 0]
        self.answer = torch.zeros(n, length, dtype=torch.bool, device=device)

    def advance(self, t: int, sampled: torch.Tensor) -> None:
        """Writes position t, given what was sampled (n,) for it."""
        turn = self.answering.long()
        forced = self._place > 0
        free = ~forced
        token = torch.where(forced, self._passages[turn, self._place], sampled)
        if t < self._starts.shape[1]:
            starting = t < self._start_length
            token = torch.where(starting, self._starts[:, t], token)
            free = free & ~starting
        self.ids[:, t] = token
        self._turn_length = torch.where(free, self._turn_length + 1, 0)
        ends = self._ends(t, turn)
        cut = free & ~ends & ((token == self._eos) | (self._turn_length > self._longest_turn[turn]))
        self.ids[:, t] = torch.where(cut, self._passages[turn, 0], token)
        self.answer[:, t] = free & self.answering & ~cut
        # A turn that ended is followed by the rest of its passage; one that is cut, by all of it.
        place = torch.where(ends, self._resume[turn], self._place + (forced | cut))
        over = place >= self._passage_length[turn]
        self.answering = self.answering ^ over
        self._place = place.masked_fill(over, 0)
        self._turn_length = self._turn_length.masked_fill(over, 0)

    def _ends(self, t: int, turn: torch.Tensor) -> torch.Tensor:
        """(n,) bool: whose latest tokens, all of this turn (n,), are what ends it."""
        ending = self._endings[turn]  # (n, E)
        recent = self._written[:, t : t + ending.shape[1]]  # up to position t
        same = (recent == ending) | (ending == _NO_TOKEN)
        return same.all(1) & (self._turn_length >= self._ending_length[turn])


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids filled up with _NO_TOKEN on the right (n, longest), and their lengths (n,)."""
    longest = max(map(len, rows))
    filled = [[*row, *[_NO_TOKEN] * (longest - len(row))] for row in rows]
    return torch.tensor(filled, device=device), torch.tensor([len(row) for row in rows], device=device)
