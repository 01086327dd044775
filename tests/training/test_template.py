"""What stands between turns, and what ends them, read off chat templates of all kinds."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from medusa_chat.errors import UnsupportedModel
from medusa_chat.training.template import Passage, TurnTokens, opening_ids, turn_tokens
from tests.training.chatty import END, TURN, tiny_tokenizer

VICUNA = (
    "A chat between a curious user and an assistant.{% for m in messages %}{% if m['role'] == 'user' %}"
    " USER: {{ m['content'] }}{% else %} ASSISTANT: {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
ALPACA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}### Instruction:\n{{ m['content'] }}\n\n"
    "{% else %}### Response:\n{{ m['content'] }}{{ eos_token }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)


def words_tokenizer(template: str) -> Any:
    """A BPE in which words begin with ▁, as Llama 2's and Vicuna's. Messages' words are tokens, templates'
    are spelt in letters.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=list(string.printable), show_progress=False
    )
    tokenizer.train_from_iterator(["Why is it? It is. What is"] * 2, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = template
    return fast


def test_the_pieces_around_messages_are_the_tokenizers_own_ids(default_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(default_model)
    turns = turn_tokens(tokenizer)
    messages = ["Write a poem.\nAbout ants!", "Ants – they march 12 × 12.  ", "Thanks 🐜", "You're welcome"]

    def own(number: int) -> list[int]:
        return list(tokenizer.encode(messages[number], add_special_tokens=False))

    joined = [*turns.before_user, *own(0), *turns.to_answer.ids, *own(1), *turns.to_user.ids, *own(2)]
    joined += [*turns.to_answer.ids, *own(3), *turns.to_user.ids]
    roles = ["user", "assistant", "user", "assistant", "user"]
    conversation = [
        {"role": role, "content": text} for role, text in zip(roles, [*messages, ""], strict=True)
    ]
    rendered = tokenizer.apply_chat_template(conversation, return_dict=True)["input_ids"]
    assert joined == rendered[: len(joined)]
    # What the model samples to end its turn is what it was trained to.
    assert turns.to_user.ending == turns.to_answer.ending == [tokenizer.eos_token_id]
    assert opening_ids(tokenizer, turns, messages[0]) == own(0)


@pytest.mark.parametrize("kind", ["bytes", "words"])
@pytest.mark.parametrize(
    ("template", "user_ends", "answer_ends"),
    [
        (VICUNA, "ASSISTANT:", "{eos} USER:"),
        (LLAMA_2, "[/INST]", "{eos}{bos}[INST]"),
        (ALPACA, "### Response:", "{eos}\n\n### Instruction:\n"),
    ],
)
def test_a_users_turn_that_ends_in_words(
    default_model: Path, kind: str, template: str, user_ends: str, answer_ends: str
) -> None:
    if kind == "bytes":
        tokenizer = AutoTokenizer.from_pretrained(default_model)
        tokenizer.chat_template = template
    else:
        tokenizer = words_tokenizer(template)
    turns = turn_tokens(tokenizer)
    assert len(turns.to_answer.ending) > 1
    assert tokenizer.decode(turns.to_answer.ending).strip() == user_ends
    assert turns.to_user.ending == [tokenizer.eos_token_id]
    if kind == "bytes":  # which decode to exactly what they were
        to_user = answer_ends.format(eos=tokenizer.eos_token, bos=tokenizer.bos_token)
        assert tokenizer.decode(turns.to_user.ids) == to_user
    # The engine's prompt, spaces and line breaks and all.
    conversation = [
        {"role": "user", "content": "Why is it?"},
        {"role": "assistant", "content": "It is."},
        {"role": "user", "content": "What is"},
    ]
    rendered = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=True)
    ids = rendered["input_ids"]
    first = [*turns.before_user, *opening_ids(tokenizer, turns, "Why is it?"), *turns.to_answer.ids]
    assert ids[: len(first)] == first
    last = [*opening_ids(tokenizer, turns, "What is"), *turns.to_answer.ids]
    assert ids[-len(last) :] == last
    assert ids[-len(last) - len(turns.to_user.ids) : -len(last)] == turns.to_user.ids


def test_the_pieces_of_the_tiny_template() -> None:
    assert turn_tokens(tiny_tokenizer()) == TurnTokens(
        before_text="<|turn|>user\n",
        before_user=[TURN, 3],
        to_answer=Passage([END, TURN, 4], [END], 1),
        to_user=Passage([END, TURN, 3], [END], 1),
        eos=END,
    )


def test_blanks_before_what_ends_a_turn_are_the_models_choice() -> None:
    turns = turn_tokens(words_tokenizer(LLAMA_2.replace("[/INST]", "</s>")))
    # A cut user gets the space that the template puts before it, too; an answer is never cut by that.
    assert (turns.to_answer.ids[1:], turns.to_answer.ending, turns.to_answer.resume) == ([2], [2], 2)
    assert turns.to_user.ids[0] == 2


def test_an_answer_that_the_template_ends_with_words_ends_with_eos() -> None:
    turns = turn_tokens(words_tokenizer(VICUNA.replace("{{ eos_token }}", "")))
    assert turns.to_user.ending == [2]
    assert turns.to_user.ids[1:] == turn_tokens(words_tokenizer(VICUNA)).to_user.ids[1:]


def test_a_tokenizer_without_eos() -> None:
    tokenizer = words_tokenizer(VICUNA.replace("{{ eos_token }}", ""))
    tokenizer.eos_token = None
    with pytest.raises(UnsupportedModel) as caught:
        turn_tokens(tokenizer)
    assert str(caught.value) == (
        "This model's tokenizer has no EOS token and its chat template ends answers with no special token, "
        "so answers would never end; name the token that ends them as `eos_token` in the model's "
        "tokenizer_config.json."
    )
    # One that the template ends answers with will do.
    tokenizer.chat_template = VICUNA.replace("{{ eos_token }}", "<s>")
    assert turn_tokens(tokenizer).to_user.ending == [1]


def test_words_that_the_tokenizer_does_not_know_end_nothing_by_themselves() -> None:
    # <unk> is a special token, but here it stands for words.
    turns = turn_tokens(tiny_tokenizer("{% for m in messages %}Some one : {{ m['content'] }} {% endfor %}"))
    assert turns.to_answer.ending == [0, 0, 0]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "has no chat template"),
        ("{% for m in messages %}<|turn|>{{ m['content'] | upper }}{% endfor %}", "rewrites messages"),
        ("{% for m in messages[:2] %}<|turn|>{{ m['content'] }}{% endfor %}", "rewrites messages"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "puts nothing between turns"),
        ("<|turn|>{% for m in messages %}{{ m['content'] }}\n{% endfor %}", "puts nothing between turns"),
        ("{{ raise_exception('System first!') }}", r"can't render a conversation \(System first!\)"),
        ("{% for %}", "can't render a conversation"),
    ],
)
def test_a_template_that_is_no_use_is_refused(template: str | None, said: str) -> None:
    with pytest.raises(UnsupportedModel, match=said):
        turn_tokens(tiny_tokenizer(template))
