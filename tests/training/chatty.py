"""A tiny chat model: the random Llama of tests/tiny.py with a tokenizer of words and a template of turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from medusa_chat.engine.opening import OpenModel
from medusa_chat.records import LoadRequest
from medusa_chat.registry import ModelSpec
from medusa_chat.training.dialogues import Dialogues
from medusa_chat.training.run import Listener
from tests.tiny import tiny_llama

VOCAB_SIZE = 64
UNKNOWN, TURN, END = 0, 1, 2
_WORDS = ("<unk>", "<|turn|>", "<|end|>", "user", "assistant", "What", "How", "Why", "Write", "is", "it", "?")
_TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def tiny_tokenizer(template: str | None = _TEMPLATE) -> Any:
    """One id a word, VOCAB_SIZE of them; unknown words are <unk>."""
    words = [*_WORDS, *(f"w{i}" for i in range(len(_WORDS), VOCAB_SIZE))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<|end|>",
        additional_special_tokens=["<|turn|>"],
    )
    fast.chat_template = template
    return fast


def chatty_model() -> OpenModel:
    """In memory, as the engine's opening gives it."""
    spec = ModelSpec(name="chatty", base="test/chatty", folder=Path("chatty"))
    return OpenModel(spec, tiny_llama(vocab_size=VOCAB_SIZE), tiny_tokenizer(), "none")


def save_chatty_model(folder: Path) -> LoadRequest:
    """On disk, as a user's folder."""
    model = chatty_model()
    model.base.causal_lm.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return LoadRequest(str(folder), device="cpu", dtype="float32")


def periodic_dialogues(num_sequences: int, length: int, period: int) -> Dialogues:
    """Every sequence counts 0, 1, …, period - 1, 0, … from a start of its own; all but its head is answer."""
    ids = (torch.arange(length) + torch.arange(num_sequences)[:, None]) % period
    answer = torch.ones(num_sequences, length, dtype=torch.bool)
    answer[:, :3] = False
    return Dialogues(ids.int(), answer, torch.arange(num_sequences) % 2 == 0)


def silent_listener() -> Listener:
    """Hears everything, says nothing."""
    return Listener(lambda done, total: None, lambda report: None)
