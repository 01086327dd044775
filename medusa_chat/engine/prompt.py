"""From messages to prompt ids: the model's chat template, cut to fit the context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from medusa_chat.errors import PromptTooLong, UnsupportedModel
from medusa_chat.records import ContextPolicy, Message


@dataclass(frozen=True, slots=True)
class Prompt:
    """num_dropped: oldest messages that were left out to make room."""

    ids: list[int]
    num_dropped: int


class Prompter:
    """Renders conversations for one tokenizer and context length (tokens)."""

    def __init__(self, tokenizer: Any, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._context_length = context_length

    def render(
        self, messages: Sequence[Message], max_tokens: int, policy: ContextPolicy = "drop-oldest"
    ) -> Prompt:
        """Drops whole turns, oldest first of those that the policy lets go, until a reply has room; a system
        prompt never. Messages that end with a reply have it gone on with.

        The room is max_tokens, but at most a quarter of the context. Raises PromptTooLong if what may not
        be dropped leaves none, UnsupportedModel without a chat template.
        """
        room = min(max_tokens, self._context_length // 4)
        limit = self._context_length - room
        kept = list(messages)
        while len(ids := self._template(kept)) > limit:
            oldest = _first_to_go(kept, policy)
            if oldest is None:
                raise PromptTooLong(self._too_long(len(ids), limit, kept, policy))
            # A turn goes whole: a conversation must not begin with an answer to nothing.
            del kept[oldest]
            while kept[oldest].role == "assistant":
                del kept[oldest]
        return Prompt(ids, len(messages) - len(kept))

    def _too_long(self, num_tokens: int, limit: int, kept: Sequence[Message], policy: ContextPolicy) -> str:
        sentence = (
            f"makes a prompt of {num_tokens:,} tokens; at most {limit:,} leave room for a reply in the "
            f"model's context of {self._context_length:,}."
        )
        if sum(message.role != "system" for message in kept) <= 1:
            return f"Your message {sentence} Shorten it."
        if policy == "stop":
            return (
                f"The conversation with your message {sentence} The context policy is stop: begin a new one, "
                "or let old messages go with /set context drop-oldest."
            )
        return (
            f"Your message with the first question and its answer {sentence} Shorten it, or let those go "
            "with /set context drop-oldest."
        )

    def _template(self, messages: Sequence[Message]) -> list[int]:
        if self._tokenizer.chat_template is None:
            raise UnsupportedModel(
                "This model's tokenizer has no chat template, so it can't hold a conversation; choose a "
                "chat or instruct model, or name a template for it with chat_template in models.toml."
            )
        text = self._begun(messages) if messages[-1].role == "assistant" else self._text(messages)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])  # the template has them

    def _begun(self, messages: Sequence[Message]) -> str:
        """With a reply to go on with, behind the same prompt that it was begun behind. Rendered as a message
        it would be trimmed by some templates, and given an empty thought by others.
        """
        prompt, reply = self._text(messages[:-1]), messages[-1].content
        # Llama 2's and Vicuna's put a blank before an answer, which their tokenizers don't give back.
        lacks_blank = not reply[:1].isspace() and self._text(messages).startswith(prompt + " ")
        return prompt + " " * lacks_blank + reply

    def _text(self, messages: Sequence[Message]) -> str:
        """The conversation as the template has it, changed no more than the template demands."""
        joined = _in_turns(messages)
        folded = _in_turns(_without_system_role(messages))
        refusal: TemplateError | None = None
        for turns in (messages, joined, folded):
            try:
                text = self._apply_template(turns)
            except TemplateError as error:
                refusal = error
                continue
            # Some templates leave out a system prompt without a word.
            if turns is folded or messages[0].role != "system" or messages[0].content.strip() in text:
                return text
        raise UnsupportedModel(
            f"This model's chat template refuses the conversation: {refusal}. Start a new one."
        ) from refusal

    def _apply_template(self, messages: Sequence[Message]) -> str:
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        text: str = self._tokenizer.apply_chat_template(
            conversation, add_generation_prompt=messages[-1].role != "assistant", tokenize=False
        )
        return text


def _first_to_go(messages: Sequence[Message], policy: ContextPolicy) -> int | None:
    """The place of the turn to drop, or None if none may go. The last question never may."""
    if policy == "stop":
        return None
    last = max((i for i, message in enumerate(messages) if message.role == "user"), default=0)
    places = [i for i, message in enumerate(messages[:last]) if message.role != "system"]
    if policy == "keep-first":
        # The first question and its answer stay: to go, a turn must begin after them.
        places = [i for i in places if messages[i].role == "user"][1:]
    return places[0] if places else None


def _in_turns(messages: Sequence[Message]) -> list[Message]:
    """Messages of one role in a row as one, for templates that want them to take turns: a question may have
    stayed without an answer.
    """
    turns: list[Message] = []
    for message in messages:
        if turns and turns[-1].role == message.role:
            message = Message(message.role, f"{turns.pop().content}\n\n{message.content}")
        turns.append(message)
    return turns


def _without_system_role(messages: Sequence[Message]) -> Sequence[Message]:
    """The system prompt before the first question, for templates that know none (Gemma's, Mistral's)."""
    roles = [message.role for message in messages[:2]]
    if roles != ["system", "user"]:
        return messages
    system, question, *rest = messages
    return [Message("user", f"{system.content}\n\n{question.content}"), *rest]
