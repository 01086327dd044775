"""The fixed tokens between the turns of a model's chat template, and what ends a turn."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from medusa_chat.errors import UnsupportedModel

_USER, _ANSWER, _USER_AGAIN = "\u2402first", "\u2402answer", "\u2402second"
# Stand for messages where tokens are looked at: tokenizers know words like these, with the space before them.
_WORDS = ("What", "It", "Why")


@dataclass(frozen=True, slots=True)
class Passage:
    """What stands between two turns. ids: all of it. ending: what a model samples, in a row, to end the turn
    before. resume: the place in ids behind the ending.
    """

    ids: list[int]
    ending: list[int]
    resume: int


@dataclass(frozen=True, slots=True)
class TurnTokens:
    """before_user: ids from the start to where the user's first words go; before_text is their text.
    to_answer: from the end of those words to where the answer begins. to_user: from the end of an answer to
    where the user's next words go. eos: what ends a turn in the template's stead, if the tokenizer has it.
    """

    before_text: str
    before_user: list[int]
    to_answer: Passage
    to_user: Passage
    eos: int | None


def turn_tokens(tokenizer: Any) -> TurnTokens:
    """Read off the chat template by rendering a conversation of marks.

    Raises UnsupportedModel without a template, with one that changes what it is given, or where neither
    template nor tokenizer has anything that ends an answer.
    """
    texts = _render(tokenizer)
    before_user, to_answer, to_user = _pieces(tokenizer, texts)
    special = _special_ids(tokenizer)
    turns = TurnTokens(
        texts[0],
        before_user,
        _user_to_answer(to_answer, special, tokenizer),
        _answer_to_user(to_user, special, tokenizer),
        tokenizer.eos_token_id,
    )
    if not (turns.before_user and turns.to_answer.ending):
        raise UnsupportedModel(
            "This model's chat template puts nothing between turns, so turns can't be told apart."
        )
    return turns


def opening_ids(tokenizer: Any, turns: TurnTokens, text: str) -> list[int]:
    """The text's ids as they are behind turns.before_user: a space there is part of the first word."""
    ids = _encode(tokenizer, turns.before_text + text)
    num_before = len(turns.before_user)
    # A text that begins with a line break may share its first token with the template.
    return ids[num_before:] if ids[:num_before] == turns.before_user else _encode(tokenizer, text)


def _user_to_answer(ids: list[int], special: Collection[int], tokenizer: Any) -> Passage:
    """A user's turn ends with the first special token or, where there is none, with the words between the
    blanks: the model may have put other blanks before them.
    """
    words = [place for place, token in enumerate(ids) if token in special][:1] or [
        place for place, token in enumerate(ids) if tokenizer.decode([token]).strip()
    ]
    if not words:
        return Passage(ids, [], 0)
    begin, end = words[0], words[-1] + 1
    return Passage(ids, ids[begin:end], end)


def _answer_to_user(ids: list[int], special: Collection[int], tokenizer: Any) -> Passage:
    """An answer ends with the first special token, whatever blanks the template puts before it, or else with
    EOS, as it does in use.
    """
    place = next((place for place, token in enumerate(ids) if token in special), None)
    if place is not None:
        return Passage(ids[place:], [ids[place]], 1)
    eos = tokenizer.eos_token_id
    if eos is None:
        raise UnsupportedModel(
            "This model's tokenizer has no EOS token and its chat template ends answers with no special "
            "token, so answers would never end; name the token that ends them as `eos_token` in the "
            "model's tokenizer_config.json."
        )
    return Passage([eos, *ids], [eos], 1)


def _pieces(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The ids of each of the texts that `_render` gives. All are read off one text with words for messages,
    as tokens at a seam may depend on both its sides.
    """
    joined = "".join(text + word for text, word in zip(texts, _WORDS, strict=True))
    encoded = tokenizer(joined, add_special_tokens=False, return_offsets_mapping=True)
    pieces, start = [], 0
    for text, word in zip(texts, _WORDS, strict=True):
        end = start + len(text)
        # A token with a blank and a letter of the word is the word's.
        spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        pieces.append([token for token, (first, last) in spans if start <= first <= last <= end])
        start = end + len(word)
    return pieces


def _render(tokenizer: Any) -> list[str]:
    """The template's text before the user's first message, between it and the answer, and between that and
    the next message.
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
    return [before, to_answer, to_user]


def _special_ids(tokenizer: Any) -> frozenset[int]:
    """Tokens that no text is made of. The unknown token is no such: it may stand for any word."""
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(token for token, entry in added.items() if entry.special)}
    return frozenset(special - {tokenizer.unk_token_id})


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))
