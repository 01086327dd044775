"""What the engine's link and other workers tell the app. They post these and never touch a widget."""

from __future__ import annotations

from textual.message import Message

from medusa_chat.app.conversation import Conversation
from medusa_chat.errors import MedusaError
from medusa_chat.records import Chunk, EngineInfo, LoadProgress, LoadRequest, ReplyStarted


class LoadProgressed(Message):
    """Loading has come this far."""

    def __init__(self, progress: LoadProgress) -> None:
        super().__init__()
        self.progress = progress


class EngineReady(Message):
    """A model is loaded and can be asked."""

    def __init__(self, request: LoadRequest, info: EngineInfo) -> None:
        super().__init__()
        self.request = request
        self.info = info


class EngineChanged(Message):
    """What is loaded has less room from now on: memory ran out."""

    def __init__(self, info: EngineInfo) -> None:
        super().__init__()
        self.info = info


class EngineDied(Message):
    """It ended without being asked to. was_asked: after a question had been put to it."""

    def __init__(self, error: MedusaError, *, was_asked: bool) -> None:
        super().__init__()
        self.error = error
        self.was_asked = was_asked


class LoadFailed(Message):
    """No model is loaded."""

    def __init__(self, request: LoadRequest, error: MedusaError) -> None:
        super().__init__()
        self.request = request
        self.error = error


class ReplyBegan(Message):
    """The prompt has been read; chunks follow."""

    def __init__(self, started: ReplyStarted) -> None:
        super().__init__()
        self.started = started


class ReplyGrew(Message):
    """The chunks of the last moment, oldest first."""

    def __init__(self, chunks: tuple[Chunk, ...]) -> None:
        super().__init__()
        self.chunks = chunks


class ReplyEnded(Message):
    """No more chunks come. error: why, when it wasn't the end of the reply."""

    def __init__(self, error: MedusaError | None = None) -> None:
        super().__init__()
        self.error = error


class ConversationRead(Message):
    """A conversation of earlier is here; message_id: of its row that the user looks for."""

    def __init__(self, conversation: Conversation, message_id: int | None) -> None:
        super().__init__()
        self.conversation = conversation
        self.message_id = message_id
