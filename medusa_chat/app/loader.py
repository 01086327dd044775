"""Which model is loaded or being loaded, and one line above the prompt that tells how far that has come."""

from __future__ import annotations

from typing import Literal

from textual import on
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from medusa_chat.app.bars import horizontal_bar
from medusa_chat.app.engine_link import EngineLink
from medusa_chat.app.messages import EngineDied, EngineReady, LoadFailed, LoadProgressed
from medusa_chat.app.sentences import sentence_of
from medusa_chat.errors import EngineCrashed
from medusa_chat.printable import printable
from medusa_chat.records import EngineInfo, LoadProgress, LoadRequest

Phase = Literal["loading", "ready", "down"]
_CRASHES_BORNE = 1
_BAR_CELLS = 20


class Loader(Static):
    """Loads again where the engine dies: unless it did so before, and was asked nothing in between. Where
    loading fails as well: once after a crash, else the model that worked before.

    The line has a fixed height, so that progress never moves the chat.
    """

    class Changed(Message):
        """Another phase, or another model: the loader says which."""

    class Said(Message):
        """What the user should know about loading."""

        def __init__(self, sentence: str, *, is_error: bool = False) -> None:
            super().__init__()
            self.sentence = sentence
            self.is_error = is_error

    def __init__(self, link: EngineLink, request: LoadRequest) -> None:
        super().__init__(markup=False)
        self._link = link
        self.request = request
        self.phase: Phase = "loading"
        self.info: EngineInfo | None = None
        self._working_request: LoadRequest | None = None
        self._crashes = 0  # in loading
        self._died_unasked = False

    def load(self, request: LoadRequest) -> None:
        """At the user's wish."""
        self._crashes, self._died_unasked = 0, False
        self._load(request)

    def expect(self, request: LoadRequest) -> None:
        """It is being fetched, and loaded after that: messages wait for it."""
        self.request = request
        self._change("loading", None)
        self.display = False  # another line tells how far that is

    def do_without(self, request: LoadRequest) -> None:
        """Nothing is loaded; this would have been."""
        self.request = request
        self._change("down", None)

    def _load(self, request: LoadRequest) -> None:
        self.request = request
        self._change("loading", None)
        self._show(LoadProgress(f"Loading {request.model}"))
        self._link.load(request, self.post_message)

    def _change(self, phase: Phase, info: EngineInfo | None) -> None:
        self.phase, self.info = phase, info
        self.display = phase == "loading"
        self.post_message(self.Changed())

    @on(LoadProgressed)
    def show_progress(self, event: LoadProgressed) -> None:
        event.stop()
        self._show(event.progress)

    @on(EngineReady)
    def be_ready(self, event: EngineReady) -> None:
        event.stop()
        if event.request != self.request:
            return  # another model has been asked for since
        self._crashes = 0
        self._working_request = event.request
        self._change("ready", event.info)
        for remark in event.info.remarks:
            self.post_message(self.Said(remark))

    @on(EngineDied)
    def bear_death(self, event: EngineDied) -> None:
        event.stop()
        reason = sentence_of(event.error)
        if self.phase != "ready":  # another model has been asked for since, which starts it
            self._fail(reason)
        elif self._died_unasked and not event.was_asked:
            self._give_up(reason)
        else:
            self._died_unasked = not event.was_asked
            self._fail(f"{reason} It is started again; the conversation is kept.")
            self._load(self.request)

    @on(LoadFailed)
    def bear_failure(self, event: LoadFailed) -> None:
        event.stop()
        if event.request != self.request:
            return
        reason = sentence_of(event.error)
        if isinstance(event.error, EngineCrashed) and self._crashes < _CRASHES_BORNE:
            self._crashes += 1
            self._fail(f"{reason} It is started once more.")
            self._load(event.request)
        elif self._working_request not in (None, event.request):
            assert self._working_request is not None
            self._fail(f"{reason} Going back to {self._working_request.model}.")
            self.load(self._working_request)
        else:
            self._give_up(reason)

    def _give_up(self, reason: str) -> None:
        self._change("down", None)
        self._fail(f"{reason} /retry tries again, /model loads another one.")

    def _fail(self, sentence: str) -> None:
        self.post_message(self.Said(sentence, is_error=True))

    def _show(self, progress: LoadProgress) -> None:
        """The bar is left out while the fraction isn't known."""
        parts: list[str | tuple[str, str]] = []
        if progress.fraction is not None:
            bar = horizontal_bar(progress.fraction, _BAR_CELLS).rstrip()
            parts += [(bar, "$primary"), ("━" * (_BAR_CELLS - len(bar)), "$foreground 20%")]
            parts += [f" {min(max(progress.fraction, 0.0), 1.0):4.0%}  "]
        self.update(Content.assemble(*parts, printable(progress.message)), layout=False)
