"""Plain decoding against Medusa on the same prompt, side by side: one after the other, each at full speed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from medusa_chat.app import figures
from medusa_chat.app.engine_link import EngineLink
from medusa_chat.app.messages import ReplyBegan, ReplyEnded, ReplyGrew
from medusa_chat.app.meter import ReplyMeter
from medusa_chat.printable import printable
from medusa_chat.records import Message, SamplingOptions

_MOST_TOKENS = 256
_SEEDS = 2**31


class Lane(Vertical):
    """One of the two replies, with its figures."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.meter = ReplyMeter()
        self.text = ""
        self._title = title
        self._head = Static(markup=False, classes="head")
        self._words = Static(markup=False)
        self._scroll = VerticalScroll(can_focus=False)

    def compose(self) -> ComposeResult:
        yield self._head
        with self._scroll:
            yield self._words

    def on_mount(self) -> None:
        self.show("waits for its turn")

    def show(self, state: str = "") -> None:
        """The text so far, and how fast it came; state: in place of the figures."""
        facts = self.meter.figures
        speed = f"{figures.number(facts.tokens_per_second)} tokens/s · {self.meter.reply_tokens} tokens"
        self._head.update(
            Content.assemble((self._title, "bold"), "\n", (state or speed, "$foreground 60%")), layout=False
        )
        self._words.update(Content(self.text))
        self._scroll.scroll_end(animate=False)


class RaceScreen(ModalScreen[None]):
    """The same seed for both: the same words, unless near-ties tip or the rule is lossy."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,f12", "leave", "Close", key_display="Esc")]

    def __init__(self, link: EngineLink, messages: Sequence[Message], options: SamplingOptions) -> None:
        super().__init__()
        seed = random.randrange(_SEEDS) if options.seed is None else options.seed
        most = min(options.max_tokens, _MOST_TOKENS)
        self._options = replace(options, seed=seed, max_tokens=most)
        self._link = link
        self._messages = tuple(messages)
        self._lanes = Lane("Plain decoding"), Lane("Medusa")
        self._racing: Lane | None = None
        self._is_left = False
        self._verdict = Static(markup=False, id="verdict")

    def compose(self) -> ComposeResult:
        with Vertical(id="race"):
            with Horizontal():
                yield from self._lanes
            yield self._verdict

    def on_mount(self) -> None:
        self._verdict.update("One after the other, for side by side they would slow each other down.")
        self._start(self._lanes[0])

    def _start(self, lane: Lane) -> None:
        self._racing = lane
        lane.show("reads the prompt …")
        options = replace(self._options, drafting=lane is self._lanes[1])
        self._link.ask(self._messages, options, self.post_message)

    @on(ReplyBegan)
    def begin(self, event: ReplyBegan) -> None:
        event.stop()

    @on(ReplyGrew)
    def grow(self, event: ReplyGrew) -> None:
        event.stop()
        lane = self._racing
        if lane is None or self._is_left:
            return
        for chunk in event.chunks:
            lane.meter.add(chunk.step)
            lane.text += printable(chunk.text)
        lane.show()

    @on(ReplyEnded)
    def end(self, event: ReplyEnded) -> None:
        event.stop()
        if self._is_left:
            self.dismiss()
        elif event.error is not None:
            self._racing = None
            self._verdict.update(Content(str(event.error)))
        elif self._racing is self._lanes[0]:
            self._start(self._lanes[1])
        else:
            self._racing = None
            self._verdict.update(Content(self._outcome()))

    def _outcome(self) -> str:
        plain, medusa = (lane.meter.figures.tokens_per_second for lane in self._lanes)
        if plain is None or medusa is None:
            return "The reply was too short to tell."
        same = self._lanes[0].text == self._lanes[1].text
        words = "word for word the same" if same else "not the same words"
        return f"Medusa was ×{medusa / plain:.2f} as fast, and {words}. Both timed while decoding."

    def action_leave(self) -> None:
        """At once, or when the reply under way has ended: its last chunks belong here."""
        if self._racing is None:
            self.dismiss()
        else:
            self._is_left = True
            self._link.stop()
