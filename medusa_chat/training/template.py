"""The fixed tokens between the turns of a model's chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from medusa_chat.errors import UnsupportedModel

_USER, _ANSWER, _USER_AGAIN = "\u2402first", "\u2402answer", "\u2402second"


@dataclass(frozen=True, slots=True)
class TurnTokens:
    """before_user: ids from the start to where the user's first words go. to_answer: from the end of those
    to where the answer begins. to_user: from the end of an answer to where the user's next words go.
    to_answer[0] and to_user[0] are what a model samples to end a turn.
    """

    before_user: list[int]
    to_answer: list[int]
    to_user: list[int]


def turn_tokens(tokenizer: Any) -> TurnTokens:
    """Read off the chat template by rendering a conversation of marks.

    Raises UnsupportedModel without a template, or with one that changes what it is given.
    """
    if tokenizer.chat_template is None:
        raise UnsupportedModel(
            "This model's tokenizer has no chat template, so it can't write dialogues to learn from."
        )
    conversation = [
        {"role": "user", "content": _USER},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": _USER_AGAIN},
    ]
    try:
        text: str = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=False)
    except TemplateError as error:
        raise UnsupportedModel(
            f"This model's chat template can't render a conversation ({error}), "
            "so it can't write dialogues to learn from."
        ) from error
    before, found_user, rest = text.partition(_USER)
    to_answer, found_answer, rest = rest.partition(_ANSWER)
    to_user, found_again, _ = rest.partition(_USER_AGAIN)
    if not (found_user and found_answer and found_again):
        raise UnsupportedModel(
            "This model's chat template rewrites messages, so it can't write dialogues to learn from."
        )

    def encode(piece: str) -> list[int]:
        return list(tokenizer.encode(piece, add_special_tokens=False))

    turns = TurnTokens(encode(before), encode(to_answer), encode(to_user))
    if not (turns.before_user and turns.to_answer and turns.to_user):
        raise UnsupportedModel(
            "This model's chat template puts nothing between turns, so turns can't be told apart."
        )
    return turns
