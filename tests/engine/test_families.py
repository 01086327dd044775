"""The chat templates of each family render: conversations, ones that they'd refuse, replies to go on with."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from medusa_chat.engine.prompt import Prompter
from medusa_chat.errors import UnsupportedModel
from medusa_chat.records import Message
from medusa_chat.registry import TEMPLATES_DIR
from tests.engine.family_templates import TEMPLATES

SHIPPED = {
    name: (TEMPLATES_DIR / f"{name}.jinja").read_text(encoding="utf-8") for name in ("vicuna", "zephyr")
}
FAMILIES = {**TEMPLATES, **SHIPPED}
# Those whose later prompts don't begin with the earlier ones and their replies: a blank before the answer.
REWRITE = {"llama2", "vicuna"}
SYSTEM, QUESTION = Message("system", "Be brief."), Message("user", "Hello!")
REPLY, NEXT = Message("assistant", "Hi."), Message("user", "How?")


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and like Llama's one that puts BOS before all that it isn't told not to."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = Tokenizer(models.BPE({word: i for i, word in enumerate(["<s>", "</s>", *letters])}, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<s>", eos_token="</s>")


def prompted(tokenizer: Any, template: str, *messages: Message) -> str:
    tokenizer.chat_template = template
    return str(tokenizer.decode(Prompter(tokenizer, 4000).render(messages, 100).ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_is_rendered_whole_with_no_second_bos(tokenizer: Any, family: str) -> None:
    text = prompted(tokenizer, FAMILIES[family], SYSTEM, QUESTION, REPLY, NEXT)
    places = [text.index(message.content) for message in (SYSTEM, QUESTION, REPLY, NEXT)]
    assert places == sorted(places)
    assert text.startswith("<s>") == ("bos_token" in FAMILIES[family])
    assert not text.startswith("<s><s>")
    assert not text.endswith(("</s>", "<|im_end|>\n", "<|end|>\n", "<end_of_turn>\n", "<|eot_id|>"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_second_prompt_begins_with_the_first_and_its_reply(tokenizer: Any, family: str) -> None:
    """So that the cache's rows are of use."""
    first = prompted(tokenizer, FAMILIES[family], SYSTEM, QUESTION)
    second = prompted(tokenizer, FAMILIES[family], SYSTEM, QUESTION, REPLY, NEXT)
    blank = " " if family in REWRITE else ""
    assert second.startswith(first + blank + REPLY.content)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("begun", ["I think ", "1.\n\n", "<think>\nhm, th", "<think>\nhm\n</think>\n\nYe"])
def test_a_reply_is_gone_on_with_behind_the_prompt_it_was_begun_behind(
    tokenizer: Any, family: str, begun: str
) -> None:
    prompt = prompted(tokenizer, FAMILIES[family], SYSTEM, QUESTION)
    blank = " " if family in REWRITE else ""
    reply = Message("assistant", begun)
    assert prompted(tokenizer, FAMILIES[family], SYSTEM, QUESTION, reply) == prompt + blank + begun


@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_that_stayed_without_an_answer_ends_no_conversation(tokenizer: Any, family: str) -> None:
    text = prompted(tokenizer, FAMILIES[family], SYSTEM, QUESTION, NEXT)
    assert text.index("Be brief.") < text.index("Hello!") < text.index("How?")


def test_a_system_prompt_goes_where_the_template_has_a_place(tokenizer: Any) -> None:
    assert "<<SYS>>\nBe brief.\n<</SYS>>" in prompted(tokenizer, TEMPLATES["llama2"], SYSTEM, QUESTION, NEXT)
    for family in ("mistral", "gemma", "gemma3"):
        assert "Be brief.\n\nHello!" in prompted(tokenizer, TEMPLATES[family], SYSTEM, QUESTION)


def test_a_system_prompt_that_is_left_out_without_a_word_goes_to_the_question(tokenizer: Any) -> None:
    template = "{% for m in messages if m.role != 'system' %}[{{ m.content }}]{% endfor %}"
    assert prompted(tokenizer, template, SYSTEM, QUESTION) == "[Be brief.\n\nHello!]"


def test_earlier_thoughts_go_as_the_template_wants_it(tokenizer: Any) -> None:
    thoughtful = Message("assistant", "<think>\nHm.\n</think>\n\nHi.")
    assert "Hm." not in prompted(tokenizer, TEMPLATES["qwen3"], QUESTION, thoughtful, NEXT)
    assert "Hm." in prompted(tokenizer, TEMPLATES["chatml"], QUESTION, thoughtful, NEXT)


def test_of_several_templates_the_default_one_is_taken(tokenizer: Any) -> None:
    several: Any = {"default": TEMPLATES["chatml"], "tool_use": "{{ raise_exception('no tools') }}"}
    assert prompted(tokenizer, several, QUESTION).startswith("<|im_start|>user\nHello!")


def test_a_template_that_is_none_says_where_one_can_be_named(tokenizer: Any) -> None:
    with pytest.raises(UnsupportedModel, match=r"choose a chat or instruct model, or name a template"):
        Prompter(tokenizer, 4000).render([QUESTION], 100)
