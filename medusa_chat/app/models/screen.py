"""The list of models: what each is, what of it is here, what fits; to switch to one, or to fetch it first."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar, get_args

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from medusa_chat.app.key_line import KeyLine
from medusa_chat.app.models import wording
from medusa_chat.app.models.pulls import Pull, Pulls
from medusa_chat.checkpoints.catalogue import Entry, find_entry, read_catalogue
from medusa_chat.errors import MedusaError
from medusa_chat.machine import Memory, find_memory
from medusa_chat.printable import printable
from medusa_chat.records import LoadRequest, Quantization

_SCROLLBAR_CELLS = 1
_QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)


@dataclass(frozen=True, slots=True)
class InUse:
    """request: the latest one; its quantisation and KV cache are what the user wants of any model, if
    set. num_bytes: what it holds of this machine's memory, which another model would get. is_loaded: or is
    being loaded.
    """

    request: LoadRequest
    num_bytes: int = 0
    is_loaded: bool = True


class FilterBox(Input):
    """Keeps the keys while its arrows walk the list."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Use", key_display="Enter"),
        Binding("up", "screen.walk(-1)", show=False),
        Binding("down", "screen.walk(1)", show=False),
        Binding("pageup", "screen.walk(-5)", show=False),
        Binding("pagedown", "screen.walk(5)", show=False),
    ]


class ModelsScreen(ModalScreen[None]):
    """Enter uses the model under the highlight, fetching it first if it must. Esc hides the screen; a
    download goes on.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "quantization", "Quantisation", key_display="Tab", priority=True),
        Binding("ctrl+x", "cancel_pull", "Cancel download", priority=True),
        Binding("escape", "dismiss", "Close", key_display="Esc"),
    ]

    class Chosen(Message):
        """The user wants this model, which is here. quantization: if one was picked for it."""

        def __init__(self, name: str, quantization: Quantization | None) -> None:
            super().__init__()
            self.name = name
            self.quantization = quantization

    class Listed(Message):
        """What is known of the models has been read; memory comes after, from a slower source."""

        def __init__(self, entries: tuple[Entry, ...]) -> None:
            super().__init__()
            self.entries = entries

    class Measured(Message):
        """The machine has told its memory."""

        def __init__(self, memory: Memory) -> None:
            super().__init__()
            self.memory = memory

    class Found(Message):
        """What was typed is a folder, or may be on the hub."""

        def __init__(self, entry: Entry) -> None:
            super().__init__()
            self.entry = entry

    class Failed(Message):
        """It could not be read or found; the sentence is the user's."""

        def __init__(self, sentence: str) -> None:
            super().__init__()
            self.sentence = sentence

    def __init__(self, pulls: Pulls, in_use: InUse) -> None:
        super().__init__()
        self._pulls = pulls
        self._in_use = in_use
        self._entries: tuple[Entry, ...] = ()
        self._typed: tuple[Entry, ...] = ()  # what the user named and the registry doesn't know
        self._shown: tuple[Entry, ...] = ()
        self._memory: Memory | None = None
        self._picked: dict[str, Quantization] = {}
        self._wanted: str | None = None  # to be used once it is fetched
        self.filter_box = FilterBox(
            placeholder="Filter · or a folder, or OWNER/NAME of the hub", compact=True
        )
        self.heading = Static(markup=False, id="models-heading")
        self.rows = OptionList(markup=False, compact=True)
        self.rows.can_focus = False  # the keys stay with the box
        self.details = Static(markup=False, id="models-details")
        self.pull = Static(markup=False, id="models-pull")
        self.status = Static(markup=False, id="models-status")

    def compose(self) -> ComposeResult:
        with Vertical(id="models"):
            yield Static("Models", markup=False, id="models-title")
            yield self.filter_box
            yield self.heading
            yield self.rows
            yield self.details
            yield self.pull
            yield self.status
        yield KeyLine()

    def on_mount(self) -> None:
        self.filter_box.focus()
        self._pulls.changed.subscribe(self, self._follow_pull)
        if self._pulls.latest is not None:
            self._show_pull(self._pulls.latest)
        self._read()
        self._measure()

    # What is known

    @work(group="read", exclusive=True)
    async def _read(self) -> None:
        try:
            kv_cache = self._in_use.request.kv_cache
            self.post_message(self.Listed(await asyncio.to_thread(read_catalogue, kv_cache)))
        except (MedusaError, OSError) as error:
            self.post_message(self.Failed(str(error)))

    @work(group="measure", exclusive=True)
    async def _measure(self) -> None:
        request = self._in_use.request
        self.post_message(self.Measured(await asyncio.to_thread(find_memory, request.device, request.dtype)))

    @work(group="find", exclusive=True)
    async def _find(self, text: str) -> None:
        try:
            kv_cache = self._in_use.request.kv_cache
            self.post_message(self.Found(await asyncio.to_thread(find_entry, text, kv_cache)))
        except (MedusaError, OSError) as error:
            self.post_message(self.Failed(str(error)))

    @on(Listed)
    def take_list(self, event: Listed) -> None:
        event.stop()
        is_first = not self._entries
        self._entries = event.entries
        self._fill(self._in_use.request.model if is_first else self._highlighted_model)

    @on(Measured)
    def take_memory(self, event: Measured) -> None:
        event.stop()
        self._memory = event.memory
        self.query_one("#models-title", Static).update(
            Content(f"Models · {wording.room(event.memory, self._freed)}")
        )
        self._fill(self._highlighted_model)

    @on(Found)
    def take_found(self, event: Found) -> None:
        event.stop()
        others = (entry for entry in self._typed if entry.model != event.entry.model)
        self._typed = (*others, event.entry)
        self._fill(event.entry.model)
        self._use(event.entry)

    @on(Failed)
    def tell_failure(self, event: Failed) -> None:
        event.stop()
        self._say(event.sentence, is_error=True)

    @property
    def _freed(self) -> int:
        return self._in_use.num_bytes

    # The list

    @property
    def _entry(self) -> Entry | None:
        place = self.rows.highlighted
        return self._shown[place] if place is not None and place < len(self._shown) else None

    @property
    def _highlighted_model(self) -> str | None:
        return self._entry.model if self._entry is not None else None

    def _fill(self, highlighted: str | None) -> None:
        """Shows what matches, and highlights that model, or the first one."""
        text = self.filter_box.value.strip()
        self._shown = tuple(entry for entry in (*self._entries, *self._typed) if _matches(entry, text))
        width = max(self.rows.size.width - _SCROLLBAR_CELLS, 1)
        self.heading.update(wording.heading(width), layout=False)
        self.rows.set_options(Option(self._row(entry, width)) for entry in self._shown)
        models = [entry.model for entry in self._shown]
        if models:
            self.rows.highlighted = models.index(highlighted) if highlighted in models else 0
        self._show_details()

    def _row(self, entry: Entry, width: int) -> Content:
        in_use = self._in_use.is_loaded and entry.model == self._in_use.request.model
        return wording.row(entry, self._memory, self._freed, width, in_use=in_use)

    def on_resize(self) -> None:
        self.call_after_refresh(lambda: self._fill(self._highlighted_model))

    @on(OptionList.OptionHighlighted)
    def _show_details(self) -> None:
        entry = self._entry
        if entry is None:
            text = self.filter_box.value.strip()
            hint = "No model here is called so. Enter takes it for a folder, or for OWNER/NAME of the hub."
            self.details.update(Content(hint if text and self._entries else ""), layout=False)
            return
        lines = wording.details(entry, self._memory, self._freed, self._quantization_of(entry))
        self.details.update(Content("\n").join(lines), layout=False)

    def _quantization_of(self, entry: Entry) -> Quantization:
        picked = self._picked.get(entry.model)
        return picked or self._in_use.request.quantization or entry.spec.quantization

    @on(Input.Changed)
    def filter(self, event: Input.Changed) -> None:
        event.stop()
        self._say("")
        self._fill(self._highlighted_model)

    def _say(self, sentence: str, *, is_error: bool = False) -> None:
        self.status.set_class(is_error, "-error")
        self.status.update(Content(printable(sentence)), layout=False)

    # Keys

    def action_walk(self, rows: int) -> None:
        if self._shown:
            place = (self.rows.highlighted or 0) + rows
            self.rows.highlighted = min(max(place, 0), len(self._shown) - 1)

    def action_quantization(self) -> None:
        """The next one of the three, for the model under the highlight."""
        if (entry := self._entry) is not None:
            place = _QUANTIZATIONS.index(self._quantization_of(entry)) + 1
            self._picked[entry.model] = _QUANTIZATIONS[place % len(_QUANTIZATIONS)]
            self._show_details()

    def action_cancel_pull(self) -> None:
        self._wanted = None
        self._pulls.cancel()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """There is something to cancel."""
        return action != "cancel_pull" or self._pulls.running is not None

    @on(Input.Submitted)
    def choose(self) -> None:
        text = self.filter_box.value.strip()
        if (entry := self._entry) is not None:
            self._use(entry)
        elif text:
            self._find(text)

    def _use(self, entry: Entry) -> None:
        """Switches to it, or begins to fetch it."""
        running = self._pulls.running
        if entry.plan is None:
            self.post_message(self.Chosen(entry.model, self._picked.get(entry.model)))
            self.dismiss()
        elif running is not None and running.model != entry.model:
            self._say(
                f"{running.model} is being fetched: wait for it, or cancel it with Ctrl+X.", is_error=True
            )
        else:
            self._wanted = entry.model
            self._say(f"{entry.model} is used as soon as it is here. Esc hides this and lets it go on.")
            if running is None:
                self._pulls.start(entry.model)

    # The download

    def _follow_pull(self, pull: Pull) -> None:
        self._show_pull(pull)
        if pull.outcome != "running":
            self._end_pull(pull)

    def _show_pull(self, pull: Pull) -> None:
        is_running = pull.outcome == "running"
        self.pull.update(wording.pull_line(pull) if is_running else Content(), layout=False)
        self.refresh_bindings()

    def _end_pull(self, pull: Pull) -> None:
        if pull.outcome == "done" and self._wanted == pull.model:
            self.post_message(self.Chosen(pull.model, self._picked.get(pull.model)))
            self.dismiss()
            return
        self._wanted = None
        self._say(wording.outcome(pull), is_error=pull.outcome == "failed")
        self._read()


def _matches(entry: Entry, text: str) -> bool:
    """By a part of its name or its base's; what has a slash in it names one model, on the hub or a folder."""
    wanted, names = text.casefold(), (entry.model.casefold(), entry.spec.base.casefold())
    return wanted in names if "/" in wanted else any(wanted in name for name in names)
