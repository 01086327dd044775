"""Rendering a conversation into a context that may be too small for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from medusa_chat.engine.prompt import Prompter
from medusa_chat.errors import PromptTooLong, UnsupportedModel
from medusa_chat.records import ContextPolicy, Message
from medusa_chat.registry import TEMPLATES_DIR

SYSTEM = Message("system", "Be brief.")


@pytest.fixture
def tokenizer(default_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(default_model)


@pytest.fixture
def plain_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, and special tokens as Llama has them."""
    words = ["<unk>", "<s>", "</s>"]
    model = models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def rendered(tokenizer: Any, template: str, messages: list[Message]) -> str:
    tokenizer.chat_template = template
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    return str(tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False))


def shipped(name: str) -> str:
    return (TEMPLATES_DIR / f"{name}.jinja").read_text(encoding="utf-8")


TURNS = [Message("user", "Hello!"), Message("assistant", " Hello!"), Message("user", "How are you?")]


def test_vicunas_template_is_fastchats(plain_tokenizer: Any) -> None:
    assert rendered(plain_tokenizer, shipped("vicuna"), TURNS) == (
        "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions. "
        "USER: Hello! ASSISTANT: Hello!</s>USER: How are you? ASSISTANT:"
    )
    assert rendered(plain_tokenizer, shipped("vicuna"), [SYSTEM, *TURNS[:1]]) == (
        "<s>Be brief. USER: Hello! ASSISTANT:"
    )


def test_zephyrs_template_is_its_own(plain_tokenizer: Any) -> None:
    assert rendered(plain_tokenizer, shipped("zephyr"), [SYSTEM, *TURNS]) == (
        "<|system|>\nBe brief.</s>\n<|user|>\nHello!</s>\n<|assistant|>\n Hello!</s>\n"
        "<|user|>\nHow are you?</s>\n<|assistant|>\n"
    )


def test_a_template_without_a_system_role_gets_it_with_the_first_question(plain_tokenizer: Any) -> None:
    plain_tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
        "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    )
    seen: list[str] = []
    prompter = Prompter(plain_tokenizer, 1000)
    render = plain_tokenizer.apply_chat_template

    def spy(conversation: Any, **options: Any) -> Any:
        seen.append(render(conversation, tokenize=False))
        return render(conversation, **options)

    plain_tokenizer.apply_chat_template = spy
    prompter.render([SYSTEM, *TURNS[:1]], 100)
    assert seen == ["[Be brief.\n\nHello!]"]


def test_a_conversation_that_the_template_refuses(plain_tokenizer: Any) -> None:
    plain_tokenizer.chat_template = "{{ raise_exception('Roles must alternate') }}"
    with pytest.raises(UnsupportedModel, match=r"refuses the conversation: Roles must alternate\. Start"):
        Prompter(plain_tokenizer, 1000).render(TURNS, 100)


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


def test_keep_first_lets_the_middle_go(tokenizer: Any) -> None:
    messages = conversation(6)
    prompt = Prompter(tokenizer, 320).render(messages, 64, "keep-first")
    text = tokenizer.decode(prompt.ids)
    assert len(prompt.ids) <= 256
    assert prompt.num_dropped > 0
    assert prompt.num_dropped % 2 == 0
    for kept in ("Be brief.", "Question 0", "Question 5", "The last question?"):
        assert kept in text
    assert "Question 1" not in text
    assert Prompter(tokenizer, 8192).render(messages, 64, "keep-first").num_dropped == 0


def test_keep_first_says_when_the_first_turn_is_what_leaves_no_room(tokenizer: Any) -> None:
    messages = [Message("user", "why " * 200), Message("assistant", "so"), Message("user", "And?")]
    with pytest.raises(PromptTooLong, match=r"with the first question and its answer .* drop-oldest\."):
        Prompter(tokenizer, 256).render(messages, 64, "keep-first")
    assert Prompter(tokenizer, 256).render(messages, 64).num_dropped == 2


def test_stop_refuses_and_says_what_to_do(tokenizer: Any) -> None:
    with pytest.raises(PromptTooLong, match=r"at most 192 leave room .* is stop: begin a new one, or let"):
        Prompter(tokenizer, 256).render(conversation(6), 64, "stop")
    assert Prompter(tokenizer, 8192).render(conversation(6), 64, "stop").num_dropped == 0


@pytest.mark.parametrize("policy", ["drop-oldest", "keep-first", "stop"])
def test_one_message_alone_is_to_be_shortened_whatever_the_policy(
    tokenizer: Any, policy: ContextPolicy
) -> None:
    with pytest.raises(PromptTooLong, match=r"^Your message makes .* Shorten it\.$"):
        Prompter(tokenizer, 256).render([SYSTEM, Message("user", "word " * 500)], 64, policy)


def test_no_template_no_chat(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(UnsupportedModel, match="no chat template"):
        Prompter(tokenizer, 256).render([Message("user", "Hi")], 64)


@pytest.mark.parametrize("begun", ["The lighthouse", "One\n\n", "It was ", "```python\nprint(1)\n"])
def test_a_reply_is_gone_on_with_where_it_ended(tokenizer: Any, begun: str) -> None:
    prompter = Prompter(tokenizer, 2048)
    question = [SYSTEM, Message("user", "Tell me.")]
    ids = prompter.render([*question, Message("assistant", begun)], 100).ids
    assert tokenizer.decode(ids) == tokenizer.decode(prompter.render(question, 100).ids) + begun


def test_neither_the_reply_that_is_gone_on_with_nor_its_question_is_dropped(tokenizer: Any) -> None:
    long = [Message("user", "word " * 150), Message("assistant", "Yes."), *TURNS[:2]]
    prompt = Prompter(tokenizer, 200).render(long, 10)
    assert prompt.num_dropped == 2
    assert "Hello!" in tokenizer.decode(prompt.ids)
    with pytest.raises(PromptTooLong):
        Prompter(tokenizer, 200).render([*TURNS[:1], Message("assistant", "word " * 250)], 10)
