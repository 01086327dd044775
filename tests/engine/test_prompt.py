"""Rendering a conversation into a context that may be too small for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from medusa_chat.engine.prompt import Prompter
from medusa_chat.errors import PromptTooLong, UnsupportedModel
from medusa_chat.records import Message

SYSTEM = Message("system", "Be brief.")


@pytest.fixture
def tokenizer(default_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(default_model)


def conversation(turns: int) -> list[Message]:
    messages = [SYSTEM]
    for turn in range(turns):
        messages += [
            Message("user", f"Question {turn}: " + "why " * 20),
            Message("assistant", "because " * 20),
        ]
    return [*messages, Message("user", "The last question?")]


def test_renders_the_models_own_template(tokenizer: Any) -> None:
    prompt = Prompter(tokenizer, 8192).render([SYSTEM, Message("user", "Hi")], 100)
    assert tokenizer.decode(prompt.ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt.num_dropped == 0


def test_oldest_turns_go_first_and_the_system_prompt_never(tokenizer: Any) -> None:
    messages = conversation(6)
    prompt = Prompter(tokenizer, 256).render(messages, 64)
    text = tokenizer.decode(prompt.ids)
    assert len(prompt.ids) <= 192
    assert prompt.num_dropped > 0
    assert prompt.num_dropped % 2 == 0  # a question goes with its answer
    assert "Be brief." in text
    assert "The last question?" in text
    assert "Question 5" in text
    assert "Question 0" not in text


def test_room_for_a_reply_is_a_quarter_of_the_context_at_most(tokenizer: Any) -> None:
    messages = conversation(3)
    whole = len(Prompter(tokenizer, 8192).render(messages, 1).ids)
    assert Prompter(tokenizer, whole + 40).render(messages, 40).num_dropped == 0
    assert Prompter(tokenizer, whole + 39).render(messages, 40).num_dropped > 0
    assert Prompter(tokenizer, whole * 4 // 3 + 1).render(messages, 100_000).num_dropped == 0


def test_a_message_that_alone_is_too_long_is_refused(tokenizer: Any) -> None:
    with pytest.raises(PromptTooLong, match=r"at most 192 leave room.*context of 256\. Shorten it"):
        Prompter(tokenizer, 256).render([SYSTEM, Message("user", "word " * 500)], 64)


def test_no_template_no_chat(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(UnsupportedModel, match="no chat template"):
        Prompter(tokenizer, 256).render([Message("user", "Hi")], 64)
