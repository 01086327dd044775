"""The conversations beside the chat: shown, searched, opened."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from medusa_chat.app.keys import TITLES, bindings
from medusa_chat.app.sidebar_rows import Row, conversation_of, row_content
from medusa_chat.errors import ConversationNotFound, HistoryError
from medusa_chat.history import History, SearchHit

_ROWS_AT_ONCE = 100
_SECONDS_BETWEEN_LETTERS = 0.12  # a search begun at each of them would find half the history
_SCROLLBAR_CELLS = 1
_LEAST_CELLS = 16


class SearchBox(Input):
    """Down goes to what was found."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("down", "app.focus_next", show=False)]


class Titles(OptionList):
    """Both keys move the focus before anything typed after them is looked at: a letter does things here."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(TITLES[:1]),
        *bindings(TITLES[1:], priority=True),
    ]

    def action_select(self) -> None:
        self.query_ancestor(ConversationList).choose()

    def action_search(self) -> None:
        self.screen.set_focus(self.query_ancestor(ConversationList).search_box)


class ConversationList(Vertical):
    """Folded away where the terminal is narrow: then it lies over the chat while it is used."""

    class Listed(Message):
        """Rows for a search text; those of the whole list for an empty one."""

        def __init__(self, query: str, rows: tuple[Row, ...]) -> None:
            super().__init__()
            self.query = query
            self.rows = rows

    class Changed(Message):
        """Something was done to a conversation; sentence says what. conversation_id: that came back."""

        def __init__(self, sentence: str, conversation_id: int | None = None) -> None:
            super().__init__()
            self.sentence = sentence
            self.conversation_id = conversation_id

    class Failed(Message):
        """The history could not do it."""

        def __init__(self, error: HistoryError) -> None:
            super().__init__()
            self.error = error

    class Opened(Message):
        """The user wants to go on with a conversation, at a message of it that a search found."""

        def __init__(self, conversation_id: int, message_id: int | None) -> None:
            super().__init__()
            self.conversation_id = conversation_id
            self.message_id = message_id

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history
        self._rows: tuple[Row, ...] = ()
        self._listed_query = ""
        self._is_choosing = False
        self._num_wanted = _ROWS_AT_ONCE
        self._open_id: int | None = None
        self._wanted_id: int | None = None  # to be highlighted when rows come
        self.search_box = SearchBox(placeholder="Search titles and text", compact=True)
        self.titles = Titles(markup=False, compact=True)
        self.empty = Static(markup=False)
        self.status = Static(markup=False, id="sidebar-status")

    def compose(self) -> ComposeResult:
        yield Static("Conversations", markup=False, id="sidebar-title")
        yield self.search_box
        yield self.empty
        yield self.titles
        yield self.status

    # Shown and hidden

    @property
    def _is_beside(self) -> bool:
        """There is room for it beside the chat."""
        return self.screen.has_class("-roomy")

    def toggle(self) -> None:
        """Shows it and gives it the keys; hides it when it has them."""
        if self.display and self.has_focus_within:
            self.set_class(self._is_beside, "-closed")
            self._leave()
            return
        self.remove_class("-closed")
        self.set_class(not self._is_beside, "-over")
        self._highlight_open()
        self.titles.focus()
        self.refresh_rows()

    def _highlight_open(self) -> None:
        """At once: a key that comes before the rows must not be for a conversation that nobody looks at."""
        self._wanted_id = self._open_id
        ids = [conversation_of(row).id for row in self._rows]
        self.titles.highlighted = ids.index(self._open_id) if self._open_id in ids else None

    def search_for(self, text: str) -> None:
        """Shows it with what a search finds."""
        if not (self.display and self.has_focus_within):
            self.toggle()
        self.search_box.value = text

    def _leave(self) -> None:
        self.remove_class("-over")
        self._say("")
        self.screen.focus_next("Prompt")

    def on_show(self) -> None:
        self.refresh_rows()

    @on(events.DescendantBlur)
    def fold_away(self) -> None:
        # Not at once: the keys may be on their way from the list to the search box.
        self.call_after_refresh(self._fold_away_unused)

    def _fold_away_unused(self) -> None:
        if self.screen.is_current and not self.has_focus_within:
            self.remove_class("-over")

    # Rows

    def mark_open(self, conversation_id: int | None) -> None:
        """Shows which conversation the chat is of."""
        self._open_id = conversation_id
        if not self.has_focus_within:
            self._wanted_id = conversation_id
        self.refresh_rows()

    def refresh_rows(self) -> None:
        """Reads them anew, where they are seen."""
        if self.display:
            self._list(self.search_box.value)

    @work(group="list", exclusive=True)
    async def _list(self, query: str) -> None:
        if query:
            await asyncio.sleep(_SECONDS_BETWEEN_LETTERS)
        try:
            rows = await asyncio.to_thread(self._read, query)
        except HistoryError as error:
            self.post_message(self.Failed(error))
        else:
            self.post_message(self.Listed(query, rows))

    def _read(self, query: str) -> tuple[Row, ...]:
        if query.strip():
            return self._history.search(query, self._num_wanted)
        return self._history.list(self._num_wanted)

    @on(Listed)
    def show_rows(self, event: Listed) -> None:
        event.stop()
        highlighted = self._to_highlight(event.query)
        self._rows, self._listed_query = event.rows, event.query
        self.empty.update(Content("" if event.rows else _nothing(event.query)))
        self.empty.display = not event.rows
        self.titles.display = bool(event.rows)
        self._fill(*highlighted)
        if self._is_choosing:
            self.choose()

    def _to_highlight(self, query: str) -> tuple[int | None, int]:
        """A conversation, and a place for when it isn't there: as before, or where a new search begins."""
        wanted, self._wanted_id = self._wanted_id, None
        if query != self._listed_query:
            return (None if query else self._open_id), 0
        return wanted or self._highlighted_id or self._open_id, self.titles.highlighted or 0

    def _fill(self, highlighted_id: int | None, place: int) -> None:
        scroll = self.titles.scroll_y
        self.titles.set_options(self._options())
        self.titles.scroll_to(y=scroll, animate=False)
        self.titles.highlighted = self._place_of(highlighted_id, place)

    def on_resize(self) -> None:
        self.call_after_refresh(self._fill, self._highlighted_id, self.titles.highlighted or 0)

    @on(Changed)
    def tell(self, event: Changed) -> None:
        event.stop()
        self._say(event.sentence)
        self._wanted_id = event.conversation_id
        self.refresh_rows()

    @on(Failed)
    def tell_failure(self, event: Failed) -> None:
        self._say(str(event.error))
        if isinstance(event.error, ConversationNotFound):
            self.refresh_rows()  # another instance has deleted it

    def _options(self) -> list[Option]:
        # Not of the list itself, which has no width while there is nothing in it.
        now, width = time.time(), max(self.content_size.width - _SCROLLBAR_CELLS, _LEAST_CELLS)
        options = []
        for row in self._rows:
            record = conversation_of(row)
            content = row_content(row, width, now, is_open=record.id == self._open_id)
            options.append(Option(content, id=str(record.id)))
        return options

    def _place_of(self, conversation_id: int | None, otherwise: int) -> int | None:
        """Where it stands in the list; where it is gone, what has taken its place."""
        if not self._rows:
            return None
        ids = [conversation_of(row).id for row in self._rows]
        return ids.index(conversation_id) if conversation_id in ids else min(otherwise, len(ids) - 1)

    @property
    def _highlighted_id(self) -> int | None:
        row = self._row
        return conversation_of(row).id if row else None

    @property
    def _row(self) -> Row | None:
        place = self.titles.highlighted
        return self._rows[place] if place is not None and place < len(self._rows) else None

    def _say(self, sentence: str) -> None:
        self.status.update(Content(sentence))
        self.status.display = bool(sentence)

    @on(Input.Changed)
    def search(self, event: Input.Changed) -> None:
        event.stop()
        self._num_wanted = _ROWS_AT_ONCE
        self._is_choosing = False
        self._say("")
        self.refresh_rows()

    @on(OptionList.OptionHighlighted)
    def list_more(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        if event.option_index == self._num_wanted - 1:
            self._num_wanted += _ROWS_AT_ONCE
            self.refresh_rows()

    # Keys

    @on(Input.Submitted)
    def choose_first(self, event: Message) -> None:
        event.stop()
        if self.search_box.value == self._listed_query:
            self.choose()
        else:
            self._is_choosing = True  # once what has been typed last is found

    def choose(self) -> None:
        """Opens the conversation under the highlight."""
        self._is_choosing = False
        if (row := self._row) is not None:
            found = row.message_id if isinstance(row, SearchHit) else None
            self.post_message(self.Opened(conversation_of(row).id, found))
            self._leave()

    def action_back(self) -> None:
        """Out of the search box, out of a search, out of the sidebar."""
        if self.search_box.value:
            self.search_box.value = ""
            self.titles.focus()
        else:
            self._leave()


def _nothing(query: str) -> str:
    query = query.strip()
    return f"Nothing matches “{query}”." if query else "No conversations yet. What you say is kept here."
