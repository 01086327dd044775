"""Self-distillation: the base model writes whole dialogues, users' turns and its own answers.

Fed nothing but its chat template up to where a user would speak, an instruction model writes the user's
message itself (Magpie, arXiv 2406.08464). All sequences run in lockstep at the same position, a forced
token (template, given prompt) or a sampled one each, and a finished answer is followed by a next user's
turn: so nothing is padded, nothing waits, and every row of every forward is data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medusa_chat.model.base import BaseModel
from medusa_chat.training.recipe import Recipe
from medusa_chat.training.template import TurnTokens, turn_tokens

_MIN_P = 0.05  # users' turns at temperature 1 derail without it
# Beginnings that spread the users' messages over what people ask for; half the dialogues start freely.
OPENINGS = (
    *(
        "What",
        "How",
        "Why",
        "Explain",
        "Describe",
        "Write",
        "Write a story",
        "Write an email",
        "Write a poem",
    ),
    *(
        "Write a Python",
        "Implement",
        "Fix",
        "Given",
        "Calculate",
        "Solve",
        "If",
        "Summarize",
        "Translate",
        "Rewrite",
    ),
    *(
        "Extract",
        "Read the following",
        "Compare",
        "List",
        "Suggest",
        "Imagine",
        "Pretend",
        "You are",
        "Act as",
    ),
    *(
        "Help me",
        "Can you",
        "I",
        "My",
        "Is",
        "Who",
        "Give me",
        "Create",
        "Design",
        "Convert",
        "Classify",
        "Discuss",
    ),
)


@dataclass(frozen=True, slots=True)
class Dialogues:
    """ids (n, T) int32. answer (n, T) bool: tokens the model chose as its answer, the ending one included.
    greedy (n,) bool: whose answers were greedy.
    """

    ids: torch.Tensor
    answer: torch.Tensor
    greedy: torch.Tensor

    @property
    def fingerprint(self) -> str:
        """Tells sets of dialogues apart."""
        digest = hashlib.sha256(self.ids.numpy().tobytes())
        digest.update(self.answer.numpy().tobytes())
        return digest.hexdigest()[:16]


class DialogueWriter:
    """Writes batches of dialogues with one base model."""

    def __init__(self, base: BaseModel, tokenizer: Any, recipe: Recipe, prompts: Sequence[str] = ()) -> None:
        """prompts: users' first messages to start from; the model writes its own if there are none."""
        self._base = base
        self._tokenizer = tokenizer
        self._recipe = recipe
        self._turns: TurnTokens = turn_tokens(tokenizer)
        joined = json.dumps(list(prompts)).encode()
        self._prompts_digest = hashlib.sha256(joined).hexdigest()[:16] if prompts else None
        self._prompts = [self._encode(prompt) for prompt in prompts]
        self._openings = [self._encode(opening) for opening in OPENINGS]

    @property
    def origin(self) -> dict[str, Any]:
        """What the dialogues depend on besides the recipe, as plain data."""
        return {"base": self._base.fingerprint, "prompts": self._prompts_digest}

    @torch.inference_mode()
    def write(self, num_sequences: int, seed: int) -> Dialogues:
        """num_sequences dialogues of the recipe's length; the same seed gives the same dialogues."""
        device, length = self._base.device, self._recipe.sequence_length
        generator = torch.Generator(device).manual_seed(seed)
        starts = self._starts(num_sequences, seed)
        greedy = torch.arange(num_sequences, device=device) % 2 == 0  # (n,)
        state = _TurnState(
            self._turns, starts, answering=bool(self._prompts), longest_user_turn=length // 4, device=device
        )
        ids = torch.empty(num_sequences, length, dtype=torch.long, device=device)
        answer = torch.zeros(num_sequences, length, dtype=torch.bool, device=device)
        cache = self._base.new_cache(length)
        ids[:, 0] = state.starts[:, 0]
        for t in range(length - 1):
            hidden = self._base.forward(ids[:, t : t + 1], cache)[:, 0]  # (n, D)
            cache.keep([0])
            temperature = torch.where(
                state.answering,
                torch.where(greedy, 0.0, self._recipe.answer_temperature),
                self._recipe.user_temperature,
            )
            sampled = sample_rows(self._base.logits(hidden), temperature, generator)
            ids[:, t + 1], answer[:, t + 1] = state.advance(t + 1, sampled)
        return Dialogues(ids.int().cpu(), answer.cpu(), greedy.cpu())

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _starts(self, num_sequences: int, seed: int) -> list[list[int]]:
        """The forced beginning of each dialogue."""
        chooser = torch.Generator().manual_seed(seed)
        starts = []
        for _ in range(num_sequences):
            if self._prompts:
                prompt = self._prompts[int(torch.randint(len(self._prompts), (), generator=chooser))]
                longest = self._recipe.sequence_length // 2
                starts.append([*self._turns.before_user, *prompt[:longest], *self._turns.to_answer])
            else:
                # One draw past the openings' end for each of them: a free start, half the time.
                index = int(torch.randint(2 * len(self._openings), (), generator=chooser))
                opening = self._openings[index] if index < len(self._openings) else []
                starts.append([*self._turns.before_user, *opening])
        return starts


class _TurnState:
    """Where each of n dialogues stands: in a forced piece or free, in a user's turn or in an answer."""

    def __init__(
        self,
        turns: TurnTokens,
        starts: Sequence[Sequence[int]],
        *,
        answering: bool,
        longest_user_turn: int,
        device: torch.device,
    ) -> None:
        longest = max(map(len, starts))
        self.starts = torch.tensor(
            [[*s, *[0] * (longest - len(s))] for s in starts], device=device
        )  # (n, longest)
        self._start_length = torch.tensor([len(s) for s in starts], device=device)  # (n,)
        pieces = [turns.to_answer, turns.to_user]  # piece 0 ends a user's turn, piece 1 an answer
        width = max(map(len, pieces))
        self._pieces = torch.tensor(
            [[*p, *[0] * (width - len(p))] for p in pieces], device=device
        )  # (2, width)
        self._piece_length = torch.tensor([len(p) for p in pieces], device=device)
        self.answering = torch.full((len(starts),), answering, device=device)  # (n,) bool
        self._at = torch.zeros(len(starts), dtype=torch.long, device=device)  # (n,) place in a piece; 0: free
        self._longest_user_turn = longest_user_turn
        self._user_turn = torch.zeros(
            len(starts), dtype=torch.long, device=device
        )  # (n,) tokens of it so far

    def advance(self, t: int, sampled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens (n,) at position t given what was sampled, and which of them (n,) are answer tokens."""
        piece = self.answering.long()
        starting = t < self._start_length
        forced = ~starting & (self._at > 0)
        token = torch.where(forced, self._pieces[piece, self._at], sampled)
        if t < self.starts.shape[1]:
            token = torch.where(starting, self.starts[:, t], token)
        free = ~starting & ~forced
        # Some users ramble on; answers are what is learnt from, so they are cut short.
        self._user_turn = torch.where(free & ~self.answering, self._user_turn + 1, 0)
        token = torch.where(self._user_turn > self._longest_user_turn, self._pieces[0, 0], token)
        # A free token that is the first of the piece ends the turn; the rest of the piece is forced.
        ends = free & (token == self._pieces[piece, 0])
        is_answer = free & self.answering
        self._at = torch.where(forced | ends, self._at + 1, self._at)
        over = (self._at > 0) & (self._at >= self._piece_length[piece])
        self.answering = self.answering ^ over
        self._at = torch.where(over, 0, self._at)
        return token, is_answer


def sample_rows(logits: torch.Tensor, temperature: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One token (n,) from each row of logits (n, V) at its own temperature (n,); 0 is greedy.

    By the Gumbel trick: the argmax of logits + temperature · noise. Tokens below _MIN_P of the best are out.
    """
    logits = logits.float()
    heat = temperature[:, None]
    threshold = logits.amax(-1, keepdim=True) + heat * torch.log(torch.tensor(_MIN_P))
    noise = torch.empty_like(logits).exponential_(generator=generator).log_().neg_()
    return (logits + heat * noise).masked_fill_(logits < threshold, -torch.inf).argmax(-1)
