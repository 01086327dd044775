"""The list above the box of what the word at the cursor may go on to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rich.cells import cell_len
from textual import events, on
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from medusa_chat.app.completion import (
    Candidate,
    OptionValues,
    Word,
    common_beginning,
    find_candidates,
)
from medusa_chat.printable import printable

_MOST_ROWS = 8


class CompletionPopup(Widget):
    """Lies over the chat, so that nothing moves when it comes. It follows the word being typed; what is on
    the disk is looked up in a thread, one word at a time, and shown if the word is still the same.

    None of its rows is chosen before an arrow key was pressed: until then Enter is not for it.
    """

    class Found(Message):
        """A look-up has ended."""

        def __init__(self, word: Word, candidates: list[Candidate]) -> None:
            super().__init__()
            self.word = word
            self.candidates = candidates

    def __init__(self, option_values: OptionValues, put: Callable[[Word, str], None]) -> None:
        """put: writes a text in the place of the word."""
        super().__init__()
        self._option_values = option_values
        self._put = put
        self._word: Word | None = None
        self._shown: Word | None = None  # that the candidates are for
        self._candidates: list[Candidate] = []
        self._chosen: int | None = None
        self._top = 0  # the first row that can be seen
        self._num_rows = 0
        self._dismissed: Word | None = None
        self._is_looking = False
        self._tab_waits = False

    @property
    def is_open(self) -> bool:
        return self._num_rows > 0

    # What is being typed

    def follow(self, word: Word | None) -> None:
        """The word at the cursor is this one now."""
        self._word = word
        self._tab_waits = False
        self._chosen = None
        if word is None:
            self._dismissed = None
            self._close()
        elif self._is_dismissed(word):
            self._close()
        elif word.kind == "command":
            self._show(word, find_candidates(word, self._option_values))
        elif not self._is_looking:
            self._is_looking = True
            self.run_worker(self._look_up(), group="completion")

    def _is_dismissed(self, word: Word) -> bool:
        gone = self._dismissed
        return gone is not None and (gone.kind, gone.start) == (word.kind, word.start)

    async def _look_up(self) -> None:
        done = None
        while (word := self._word) is not None and word != done:
            found = await asyncio.to_thread(find_candidates, word, self._option_values)
            self.post_message(self.Found(word, found))
            done = word
        self._is_looking = False

    @on(Found)
    def show_found(self, event: Found) -> None:
        event.stop()
        word = self._word
        if event.word == word and not self._is_dismissed(word):
            self._show(word, event.candidates)
            if self._tab_waits:
                self._tab_waits = False
                self._complete()

    def _show(self, word: Word, candidates: list[Candidate]) -> None:
        is_complete = word.kind != "command" and [one.label for one in candidates] == [word.typed]
        self._shown = word
        self._candidates = [] if is_complete else candidates
        self._chosen = None
        self._top = 0
        self._lay_out()

    def _close(self) -> None:
        self._candidates = []
        self._shown = None
        self._lay_out()

    # Keys

    def take_key(self, key: str) -> bool:
        """Does what a key does in the list. False: the key is not for it."""
        if key == "tab":
            return self._take_tab()
        if not self.is_open:
            return False
        if key in ("up", "down"):
            self._move(-1 if key == "up" else 1)
        elif key == "escape":
            self._dismissed = self._word
            self._close()
        elif key == "enter" and self._chosen is not None:
            self._accept(self._candidates[self._chosen])
        else:
            return False
        return True

    def _take_tab(self) -> bool:
        if self._word is None:
            return False
        if self._shown == self._word:
            self._complete()
        else:
            self._dismissed = None
            self.follow(self._word)
            self._tab_waits = self._shown != self._word
        return True

    def _complete(self) -> None:
        """As far as all candidates agree; from there on, the chosen one or the first."""
        word = self._word
        if word is None or not self._candidates:
            return
        common = common_beginning(word, self._candidates) if self._chosen is None else None
        if common is not None:
            self._put(word, common)
        else:
            self._accept(self._candidates[self._chosen or 0])

    def _accept(self, candidate: Candidate) -> None:
        if self._word is not None and self._word == self._shown:
            self._put(self._word, candidate.text)

    def _move(self, step: int) -> None:
        if self._word != self._shown:
            return  # the list is being looked up anew
        if self._chosen is None:
            self._chosen = 0 if step > 0 else len(self._candidates) - 1
        else:
            self._chosen = (self._chosen + step) % len(self._candidates)
        self._top = min(max(self._top, self._chosen - self._num_rows + 1), self._chosen)
        self.refresh()

    # The mouse

    def on_click(self, event: events.Click) -> None:
        event.stop()
        row = self._top + event.y
        if row < len(self._candidates):
            self._accept(self._candidates[row])

    def on_mouse_scroll_down(self) -> None:
        self._scroll(1)

    def on_mouse_scroll_up(self) -> None:
        self._scroll(-1)

    def _scroll(self, rows: int) -> None:
        last = len(self._candidates) - self._num_rows
        self._top = min(max(self._top + rows, 0), max(last, 0))
        self.refresh()

    # The picture

    def on_resize(self) -> None:
        if self.is_open and self.size.height < self._num_rows:
            self._lay_out()  # the terminal has shrunk

    def stand_above(self, num_rows: int) -> None:
        """The box below it takes so many rows."""
        if self.styles.margin.bottom != num_rows:
            self.styles.margin = self.styles.margin._replace(bottom=num_rows)

    def _lay_out(self) -> None:
        """Only where the size changes: a layout costs more than all the rest."""
        assert isinstance(self.parent, Widget)
        room = self.parent.size.height - self.styles.margin.bottom
        self._num_rows = min(len(self._candidates), _MOST_ROWS, room)
        if self._num_rows > 0:
            self.styles.height = self._num_rows
        self.display = self._num_rows > 0
        self.refresh()

    def render(self) -> Content:
        rows = self._candidates[self._top : self._top + self._num_rows]
        width = max((cell_len(one.label) for one in rows), default=0)
        chosen = None if self._chosen is None else self._chosen - self._top
        num_below = len(self._candidates) - self._top - len(rows)
        drawn = [self._row(one, width, n == chosen) for n, one in enumerate(rows)]
        if num_below and drawn:
            drawn[-1] = self._with_more(drawn[-1], f"↓ {num_below} more")
        return Content("\n").join(drawn)

    def _row(self, candidate: Candidate, width: int, is_chosen: bool) -> Content:
        label = f"{candidate.label}{' ' * (width - cell_len(candidate.label))}  "
        row = Content.assemble(label, (printable(candidate.note), "$foreground 60%"))
        row = row.truncate(self.content_size.width, ellipsis=True, pad=True)
        return row.stylize("on $primary 40%") if is_chosen else row

    def _with_more(self, row: Content, more: str) -> Content:
        room = self.content_size.width - len(more) - 1
        return Content.assemble(row.truncate(max(room, 0), pad=True), (f" {more}", "$foreground 45%"))
