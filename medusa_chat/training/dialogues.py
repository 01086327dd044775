"""Self-distillation: the base model writes whole dialogues, users' turns and its own answers.

Fed nothing but its chat template up to where a user would speak, an instruction model writes the user's
message itself (Magpie, arXiv 2406.08464). All sequences run in lockstep at the same position, a forced
token (template, given prompt) or a sampled one each, and a finished answer is followed by a next user's
turn: so nothing is padded, nothing waits, and every row of every forward is data.

Default model on an H100, 4096 dialogues of 640 tokens: 24 s, 108,000 positions and 80,000 answer tokens a
second; two H100s wrote 73,728 of them in 230 s. On an H200 a position took 19 ms with 512 dialogues and with
2048: until then transformers launching the forward's kernels is what takes the time, beyond it the GPU.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medusa_chat.errors import UsageError
from medusa_chat.model.base import BaseModel
from medusa_chat.training.lockstep import Lockstep
from medusa_chat.training.recipe import Recipe
from medusa_chat.training.template import opening_ids, turn_tokens

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
        """prompts: users' first messages to start from, cut to half a dialogue; the model writes its own if
        there are none.

        Raises UnsupportedModel for a chat template without turns, UsageError if it leaves them no room.
        """
        self._base = base
        self._tokenizer = tokenizer
        self._recipe = recipe
        self._turns = turn_tokens(tokenizer)
        num_fixed = len(self._turns.before_user) + len(self._turns.to_answer.ids)
        if num_fixed >= recipe.sequence_length:
            raise UsageError(
                f"The model's chat template alone takes {num_fixed:,} of a dialogue's "
                f"{recipe.sequence_length:,} tokens; use a larger --sequence-length."
            )
        joined = json.dumps(list(prompts)).encode()
        self._prompts_digest = hashlib.sha256(joined).hexdigest()[:16] if prompts else None
        self._prompts = [opening_ids(tokenizer, self._turns, prompt) for prompt in prompts]
        self._openings = [opening_ids(tokenizer, self._turns, opening) for opening in OPENINGS]

    @property
    def origin(self) -> dict[str, Any]:
        """What the dialogues depend on besides the recipe, as plain data."""
        return {"base": self._base.fingerprint, "prompts": self._prompts_digest}

    @torch.inference_mode()
    def write(self, num_sequences: int, seed: int) -> Dialogues:
        """num_sequences dialogues of the recipe's length; the same seed gives the same dialogues."""
        device, length = self._base.device, self._recipe.sequence_length
        generator = torch.Generator(device).manual_seed(seed)
        greedy = torch.arange(num_sequences, device=device) % 2 == 0  # (n,)
        answer_temperature = torch.where(greedy, 0.0, self._recipe.answer_temperature)
        starts = self._starts(num_sequences, seed)
        written = Lockstep(self._turns, starts, length, answering=bool(self._prompts), device=device)
        cache = self._base.new_cache(length)
        for t in range(1, length):
            hidden = self._base.forward(written.ids[:, t - 1 : t], cache)[:, 0]  # (n, D)
            cache.keep([0])
            temperature = torch.where(written.answering, answer_temperature, self._recipe.user_temperature)
            written.advance(t, sample_rows(self._base.logits(hidden), temperature, generator))
        return Dialogues(written.ids.int().cpu(), written.answer.cpu(), greedy.cpu())

    def text(self, ids: torch.Tensor) -> str:
        """The text of a dialogue (T,), template and all."""
        return str(self._tokenizer.decode(ids.tolist()))

    def _starts(self, num_sequences: int, seed: int) -> list[list[int]]:
        """The forced beginning of each dialogue."""
        chooser = torch.Generator().manual_seed(seed)
        starts = []
        for _ in range(num_sequences):
            if self._prompts:
                prompt = self._prompts[int(torch.randint(len(self._prompts), (), generator=chooser))]
                longest = self._recipe.sequence_length // 2
                starts.append([*self._turns.before_user, *prompt[:longest], *self._turns.to_answer.ids])
            else:
                # One draw past the openings' end for each of them: a free start, half the time.
                index = int(torch.randint(2 * len(self._openings), (), generator=chooser))
                opening = self._openings[index] if index < len(self._openings) else []
                starts.append([*self._turns.before_user, *opening])
        return starts


def sample_rows(logits: torch.Tensor, temperature: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One token (n,) from each row of logits (n, V) at its own temperature (n,); 0 is greedy.

    By the Gumbel trick: the argmax of logits + temperature · noise. Tokens below _MIN_P of the best are out.
    """
    logits = logits.float()
    heat = temperature[:, None]
    unlikely = logits < logits.amax(-1, keepdim=True) + heat * math.log(_MIN_P)
    noise = torch.empty_like(logits).exponential_(generator=generator).log_()
    return noise.mul_(-heat).add_(logits).masked_fill_(unlikely, -torch.inf).argmax(-1)
