"""Drives an engine for the app, one load or reply after another, and posts what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textual.message import Message as AppMessage

from medusa_chat.app.messages import (
    EngineChanged,
    EngineDied,
    EngineReady,
    LoadFailed,
    LoadProgressed,
    ReplyBegan,
    ReplyEnded,
    ReplyGrew,
)
from medusa_chat.engine.process import Engine
from medusa_chat.errors import MedusaError
from medusa_chat.records import (
    Chunk,
    EngineInfo,
    LoadProgress,
    LoadRequest,
    Message,
    ReplyStarted,
    SamplingOptions,
)

# Chunks are handed on this often: each hand-over costs the screen a Markdown parse and a layout.
_SECONDS_BETWEEN_CHUNKS = 1 / 10
_MOST_LETTERS = 2**16  # at once: of an engine that floods; a key is looked at before the next


Post = Callable[[AppMessage], bool]  # the post_message of whoever asked


@dataclass(frozen=True, slots=True)
class _Load:
    request: LoadRequest
    post: Post


@dataclass(frozen=True, slots=True)
class _Question:
    messages: tuple[Message, ...]
    options: SamplingOptions
    post: Post


class EngineLink:
    """Runs beside the screen as one task, and answers each job to the widget it came from."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._jobs: asyncio.Queue[_Load | _Question] = asyncio.Queue()
        self._chunks: list[Chunk] = []
        self._num_letters = 0  # in them
        self._hand_over: asyncio.TimerHandle | None = None
        self._loaded: _Load | None = None  # while the engine is known to have it
        self._was_asked = False  # since then

    def load(self, request: LoadRequest, post: Post) -> None:
        """Answered by LoadProgressed…, then EngineReady or LoadFailed; by EngineDied when that comes."""
        self._jobs.put_nowait(_Load(request, post))

    def ask(self, messages: Sequence[Message], options: SamplingOptions, post: Post) -> None:
        """Answered by ReplyBegan, ReplyGrew…, ReplyEnded; by EngineChanged where memory ran out."""
        self._jobs.put_nowait(_Question(tuple(messages), options, post))

    def set_options(self, options: SamplingOptions) -> None:
        self._engine.set_options(options)

    def stop(self) -> None:
        self._engine.cancel()

    async def run(self) -> None:
        """Until cancelled. A reply is always read to its end, so that no chunk strays into the next."""
        while True:
            match await self._next_job():
                case _Load() as load:
                    await self._load(load)
                case _Question() as question:
                    await self._reply(question)

    async def _next_job(self) -> _Load | _Question:
        watching = asyncio.create_task(self._tell_of_death())
        try:
            return await self._jobs.get()
        finally:
            watching.cancel()

    async def _tell_of_death(self) -> None:
        """In a reply, just now, or while nothing is under way."""
        if self._loaded is not None:
            error = await self._engine.crash()
            load, self._loaded = self._loaded, None
            load.post(EngineDied(error, was_asked=self._was_asked))

    async def _load(self, load: _Load) -> None:
        self._loaded, self._was_asked = None, False
        try:
            async for item in self._engine.load(load.request):
                match item:
                    case LoadProgress():
                        load.post(LoadProgressed(item))
                    case EngineInfo():
                        self._loaded = load
                        load.post(EngineReady(load.request, item))
        except MedusaError as error:
            load.post(LoadFailed(load.request, error))

    async def _reply(self, question: _Question) -> None:
        failure: MedusaError | None = None
        self._was_asked = True
        try:
            async for item in self._engine.reply(question.messages, question.options):
                match item:
                    case Chunk():
                        await self._keep(item, question.post)
                    case ReplyStarted():
                        question.post(ReplyBegan(item))
                    case EngineInfo():
                        question.post(EngineChanged(item))
        except MedusaError as error:
            failure = error
        self._hand_over_chunks(question.post)
        question.post(ReplyEnded(failure))

    async def _keep(self, chunk: Chunk, post: Post) -> None:
        self._chunks.append(chunk)
        self._num_letters += len(chunk.text)
        if self._num_letters >= _MOST_LETTERS:
            self._hand_over_chunks(post)
            await asyncio.sleep(0)
        elif self._hand_over is None:
            loop = asyncio.get_running_loop()
            self._hand_over = loop.call_later(_SECONDS_BETWEEN_CHUNKS, self._hand_over_chunks, post)

    def _hand_over_chunks(self, post: Post) -> None:
        if self._hand_over is not None:
            self._hand_over.cancel()
            self._hand_over = None
        if self._chunks:
            post(ReplyGrew(tuple(self._chunks)))
            self._chunks.clear()
            self._num_letters = 0
