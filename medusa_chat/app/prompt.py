"""The box that messages are typed into."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar
from unicodedata import category

from rich.cells import cell_len
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.timer import Timer
from textual.widgets import TextArea

from medusa_chat.app.attachments import read_attached
from medusa_chat.app.commands import is_command_line
from medusa_chat.app.completion import OptionValues, Word, find_word
from medusa_chat.app.completion_popup import CompletionPopup
from medusa_chat.app.input_history import InputHistory
from medusa_chat.app.pastes import Pastes
from medusa_chat.printable import printable

_SECONDS_BETWEEN_DRAFTS = 0.5
_SECONDS_OF_A_LONG_HINT = 8.0
_CORNERS = 6  # cells of the border that no hint stands in


class Prompt(TextArea):
    """Enter sends; Ctrl+J or Shift+Enter begins a new line; a paste of many lines only fills the box, a large
    one folded. Up in the first row brings back what was sent before.

    Sending empties the box at once, so that what is typed next can't be swept away with it; a text that
    the app can't take comes back with `give_back`.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("pageup", "scroll_chat(-1)", show=False, priority=True),
        Binding("pagedown", "scroll_chat(1)", show=False, priority=True),
    ]

    class Sent(Message):
        """The user pressed Enter. pasted: the parts of the text that the box showed folded."""

        def __init__(self, text: str, pasted: tuple[str, ...] = ()) -> None:
            super().__init__()
            self.text = text
            self.pasted = pasted

    class Drafted(Message):
        """What is in the box, a while after it changed."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class ScrolledChat(Message):
        """The user pages through the chat: -1 up, 1 down."""

        def __init__(self, pages: int) -> None:
            super().__init__()
            self.pages = pages

    def __init__(self, option_values: OptionValues, placeholder: str) -> None:
        """option_values: what /set takes, for its completion."""
        super().__init__(placeholder=placeholder, highlight_cursor_line=False)
        self.popup = CompletionPopup(option_values, self._put_for)
        self._past = InputHistory()
        self._pastes = Pastes()
        self._followed = ("", (0, 0))  # the text and the cursor that the popup knows of
        self._hinted: str | None = None
        self._told_draft = ""
        self._draft_timer: Timer | None = None

    # Texts that come and go

    @property
    def draft(self) -> str:
        """What has been typed, pastes unfolded."""
        return self._pastes.unfold(self.text)

    def exchange(self, text: str) -> str:
        """Puts in the draft of another conversation and returns the one that was there. Undo doesn't reach
        back over it.
        """
        draft = self.draft
        self._stop_draft_timer()
        self._told_draft = text
        self._past.leave()
        self.load_text(self._pastes.fold(text))
        self._settle(self.document.end)
        return draft

    def give_back(self, text: str) -> None:
        """Puts a text that wasn't taken before what has been typed since."""
        self._past.leave()
        self.insert(self._pastes.fold(text), (0, 0))
        self._settle(self.document.end)

    def remember(self, texts: Iterable[str]) -> None:
        """Puts messages of earlier sessions, newest first, where Up finds them: as they were typed."""
        self._past.remember([read_attached(printable(text)).typed for text in texts])

    def hint(self, text: str) -> None:
        """Says something below the box until the text in it changes; what is too long for that, a while above
        it.
        """
        if cell_len(text) > self.outer_size.width - _CORNERS:
            self.app.notify(text, timeout=_SECONDS_OF_A_LONG_HINT, markup=False)
            return
        self.border_subtitle = text
        self._hinted = self.text

    def _send(self) -> None:
        text = self.text
        self._past.add(text)
        self.clear()
        self._settle(self.document.end)
        self.post_message(self.Sent(self._pastes.unfold(text), self._pastes.within(text)))

    def _settle(self, cursor: tuple[int, int]) -> None:
        """After a text that wasn't typed: the popup is for typing."""
        self.move_cursor(cursor)
        self._followed = (self.text, self.cursor_location)
        self.popup.follow(None)

    # What follows the typing

    def on_text_area_changed(self) -> None:
        if self._hinted != self.text:
            self.border_subtitle = ""
        self._follow()
        if self._draft_timer is None:
            self._draft_timer = self.set_timer(_SECONDS_BETWEEN_DRAFTS, self._tell_draft)

    def on_text_area_selection_changed(self) -> None:
        self._follow()

    def on_resize(self) -> None:
        self.popup.stand_above(self.outer_size.height)

    def on_blur(self) -> None:
        self.popup.follow(None)

    def _tell_draft(self) -> None:
        self._draft_timer = None
        if self.draft != self._told_draft:
            self._told_draft = self.draft
            self.post_message(self.Drafted(self._told_draft))

    def _stop_draft_timer(self) -> None:
        if self._draft_timer is not None:
            self._draft_timer.stop()
            self._draft_timer = None

    def _follow(self) -> None:
        """Tells the popup of what was typed since. A cursor that only went elsewhere closes it."""
        before, self._followed = self._followed, (self.text, self.cursor_location)
        if self._followed != before:
            was_typed = self._followed[0] != before[0]
            self.popup.follow(self._word_at_cursor() if was_typed else None)

    def _word_at_cursor(self) -> Word | None:
        if not self.selection.is_empty:
            return None
        row, column = self.cursor_location
        line = self.document[row]
        return find_word(line[:column], is_command=self.document.line_count == 1 and line.startswith("/"))

    def _put_for(self, word: Word, text: str) -> None:
        row, _ = self.cursor_location
        self.replace(text, (row, word.start), (row, word.end), maintain_selection_offset=False)
        self._follow()

    # Keys

    def action_scroll_chat(self, pages: int) -> None:
        self.post_message(self.ScrolledChat(pages))

    async def _on_key(self, event: events.Key) -> None:
        if event.is_printable:
            return
        if event.character and category(event.character) == "Cf":
            self._insert_joiner(printable(event.character))
            event.prevent_default()
            return
        self._follow()  # what was typed before this key may not have been told yet
        if self.popup.take_key(event.key) or self._take_key(event.key) or await self._run_binding(event.key):
            event.prevent_default()
            event.stop()

    def _insert_joiner(self, character: str) -> None:
        """Python calls them unprintable, and TextArea drops them: emoji of several parts, Persian words."""
        self.replace(character, *self.selection, maintain_selection_offset=False)

    async def _run_binding(self, key: str) -> bool:
        """At once. The app would look for it later: priority bindings would overtake letters still on their
        way, and letters typed next overtake all others, so that Ctrl+U ate them.
        """
        for binding in self._bindings.key_to_bindings.get(key, ()):
            if not binding.priority and await self.app.run_action(binding.action, default_namespace=self):
                return True
        return False

    def _take_key(self, key: str) -> bool:
        act = {
            "enter": self._send,
            "ctrl+j": self._break_line,
            "shift+enter": self._break_line,
            "up": self._recall_older,
            "down": self._recall_newer,
            "backspace": self._delete_paste,
        }.get(key)
        return act is not None and act() is not False

    def _break_line(self) -> None:
        self.insert("\n")

    def _recall_older(self) -> bool:
        if not self.navigator.is_first_wrapped_line(self.cursor_location):
            return False
        return self._recall(self._past.older(self.text), at_end=False)

    def _recall_newer(self) -> bool:
        if not self.navigator.is_last_wrapped_line(self.cursor_location):
            return False
        return self._recall(self._past.newer(self.text), at_end=True)

    def _recall(self, text: str | None, at_end: bool) -> bool:
        """The cursor goes to where the same key leads further."""
        if text is None:
            return False
        self.replace(self._pastes.fold(text), (0, 0), self.document.end)
        first_row_ends = (self.wrapped_document.get_offsets(0) or [len(self.document[0]) + 1])[0] - 1
        self._settle(self.document.end if at_end else (0, first_row_ends))
        return True

    def _delete_paste(self) -> bool:
        """All of a folded one at once: a part of what stands for it would stand for nothing."""
        row, column = self.cursor_location
        placeholder = self._pastes.before(self.document[row][:column]) if self.selection.is_empty else None
        if placeholder is None:
            return False
        self.delete((row, column - len(placeholder)), (row, column))
        return True

    async def _on_paste(self, event: events.Paste) -> None:
        # Terminals send a pasted line break as a carriage return.
        event.prevent_default()
        event.stop()
        text = printable(event.text.replace("\r\n", "\n").replace("\r", "\n"))
        if not self.text and text.startswith("/") and not is_command_line(text):
            text = f" {text}"  # a path or a comment is a message
        start, end = self.selection
        self.replace(self._pastes.fold(text), start, end, maintain_selection_offset=False)
        self._settle(self.cursor_location)
