"""`medusa-chat say PROMPT`: one answer on standard output, from an engine in this same process."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medusa_chat.commands.options import (
    ContextOption,
    DeviceOption,
    DTypeOption,
    HeadsOption,
    JsonOption,
    KVCacheOption,
    LMHeadOption,
    ModelOption,
    QuantOption,
    TreeOption,
    print_remarks,
    with_overrides,
)
from medusa_chat.commands.progress import shown_progress
from medusa_chat.errors import UsageError
from medusa_chat.printable import printable
from medusa_chat.records import (
    AcceptanceRule,
    Chunk,
    EngineInfo,
    FinishReason,
    LoadRequest,
    Message,
    ReplyStarted,
    SamplingOptions,
)
from medusa_chat.statistics import ReplyStatistics

if TYPE_CHECKING:
    from medusa_chat.engine.worker import ServableSession


def say(
    prompt: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="Words; -, or none, is standard input, as UTF-8."),
    ] = None,
    model: ModelOption = None,
    heads: HeadsOption = None,
    quant: QuantOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    kv_cache: KVCacheOption = None,
    lm_head: LMHeadOption = None,
    context_length: ContextOption = None,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="1 is off.")] = None,
    top_k: Annotated[int | None, typer.Option(help="0 is off.")] = None,
    min_p: Annotated[float | None, typer.Option(help="0 is off.")] = None,
    seed: Annotated[int | None, typer.Option(help="For an answer that can be had again.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of the answer.")] = None,
    acceptance: Annotated[
        AcceptanceRule | None, typer.Option(help="exact keeps the model's own words; typical is lossy.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Decode without drafting.")] = False,
    tree_size: Annotated[int | None, typer.Option(help="Nodes of the draft tree.")] = None,
    tree: TreeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stream one answer to standard output."""
    from medusa_chat.decoding.chosen_tree import check_tree
    from medusa_chat.registry import resolve, resolve_heads
    from medusa_chat.settings import load_settings

    settings = load_settings(
        model=model,
        quant=quant,
        device=device,
        dtype=dtype,
        kv_cache=kv_cache,
        lm_head=lm_head,
        context_length=context_length,
        system=system,
    )
    options = with_overrides(
        settings.sampling,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
        max_tokens=max_tokens,
        acceptance=acceptance,
        drafting=False if plain else None,
        tree_size=tree_size,
        tree=tree,
    )
    # Wrong names fail before the engine's slow imports.
    check_tree(options.tree)
    resolve_heads(resolve(settings.model), heads)
    messages = _messages(settings.system, _read_prompt(prompt))
    session = _open(settings.load_request(heads))
    print_remarks(session.info.remarks)
    try:
        session.options = options
        answer = Answer()
        if as_json:
            _print_report(session, messages, answer)
        else:
            _stream(session, messages, answer)
    finally:
        session.close()


class Answer:
    """What has come of the reply so far."""

    def __init__(self) -> None:
        self.text = ""
        self.token_ids: list[int] = []
        # What stays if the user interrupts.
        self.finish_reason: FinishReason = "cancelled"
        self.prompt_tokens = 0
        self.statistics = ReplyStatistics()

    def collect(self, session: ServableSession, messages: list[Message]) -> Iterator[str]:
        """Yields each chunk's text after taking the chunk in."""
        for item in session.reply(messages):
            match item:
                case ReplyStarted(num_prompt_tokens):
                    self.prompt_tokens = num_prompt_tokens
                case Chunk(text, ids, step, finish_reason):
                    self.text += text
                    self.token_ids += ids
                    self.statistics.add(step)
                    self.finish_reason = finish_reason or self.finish_reason
                    yield text

    def report(self, info: EngineInfo, options: SamplingOptions) -> dict[str, Any]:
        """The object of --json."""
        figures = self.statistics
        return {
            "text": self.text,
            "token_ids": self.token_ids,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": len(self.token_ids),
            "steps": figures.steps,
            "tokens_per_step": figures.tokens_per_step,
            "tokens_per_second": figures.tokens_per_second,
            "time_to_first_token": figures.time_to_first_token,
            "speedup": figures.speedup(info.step_seconds.get(1)),
            "accepted_histogram": figures.accepted_histogram,
            "model": info.model,
            "quantization": info.quantization,
            "device": info.device,
            "dtype": info.dtype,
            "kv_cache": info.kv_cache,
            "lm_head": info.lm_head,
            "acceptance": options.acceptance,
            "tree_size": _tree_size(info, options),
        }


def _stream(session: ServableSession, messages: list[Message], answer: Answer) -> None:
    try:
        for text in answer.collect(session, messages):
            print(printable(text), end="", flush=True)
    finally:
        if answer.text and not answer.text.endswith("\n"):
            print(flush=True)


def _print_report(session: ServableSession, messages: list[Message], answer: Answer) -> None:
    try:
        for _ in answer.collect(session, messages):
            pass
    except KeyboardInterrupt:
        print(json.dumps(answer.report(session.info, session.options)))
        raise
    # ASCII only, so no control character of a reply reaches a terminal.
    print(json.dumps(answer.report(session.info, session.options)))


def _open(request: LoadRequest) -> ServableSession:
    with shown_progress(always=False) as on_progress:
        from medusa_chat.engine.session import open_session

        return open_session(request, on_progress)


def _messages(system: str | None, prompt: str) -> list[Message]:
    messages = [Message("user", prompt)]
    return [Message("system", _checked(system, "The system prompt")), *messages] if system else messages


def _read_prompt(words: Sequence[str] | None) -> str:
    """The words as one text, and where one is "-" what stands on standard input, between blank lines."""
    if not words and sys.stdin.isatty():
        raise UsageError('Nothing to answer: give a prompt, as in `medusa-chat say "Hello"`, or pipe one in.')
    runs = groupby(words or ["-"], lambda word: word == "-")
    texts = (_standard_input() if is_input else " ".join(run) for is_input, run in runs)
    prompt = "\n\n".join(text for text in (_checked(text, "The prompt").strip() for text in texts) if text)
    if not prompt:
        raise UsageError("The prompt is empty: write something to answer.")
    return prompt


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"Standard input is not UTF-8 (byte {error.start + 1}): convert it first.") from None


def _checked(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # how Python marks bytes of an argument that it could not decode
        raise UsageError(f"{what} is not UTF-8: convert it first.") from None
    return printable(text)


def _tree_size(info: EngineInfo, options: SamplingOptions) -> int:
    if not options.drafting or info.num_heads == 0:
        return 1
    from medusa_chat.decoding.chosen_tree import asked_size

    return asked_size(options) or info.tree_size
