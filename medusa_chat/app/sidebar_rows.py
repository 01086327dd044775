"""The sidebar's lines, for conversations in a list and for those that a search found."""

from __future__ import annotations

from textual.content import Content

from medusa_chat.app.ages import age
from medusa_chat.history import ConversationRecord, Excerpt, SearchHit

Row = ConversationRecord | SearchHit
_MATCH = "bold $accent"
_EXCERPT_LENGTH = 90


def conversation_of(row: Row) -> ConversationRecord:
    """The conversation that a row stands for."""
    return row.conversation if isinstance(row, SearchHit) else row


def row_content(row: Row, width: int, now: float, *, is_open: bool) -> Content:
    """One line of title and age; below it, for what a search found, where the words stand."""
    if isinstance(row, ConversationRecord):
        return _title_line(row, Excerpt(row.name), width, now, is_open=is_open)
    line = _title_line(row.conversation, row.title, width, now, is_open=is_open)
    if row.message is None:
        return line
    excerpt = _marked(row.message.around_first_match(_EXCERPT_LENGTH))
    return Content("\n").join([line, *excerpt.stylize_before("dim").wrap(width)])


def _title_line(
    record: ConversationRecord, title: Excerpt, width: int, now: float, *, is_open: bool
) -> Content:
    mark = "★ " if record.pinned else ""
    when = age(record.updated_at, now)
    shown = _marked(title)
    if is_open:  # by no colour, nor has the age one: the cursor's line has another ground
        shown = shown.stylize_before("bold underline")
    room = width - len(mark) - max(len(when) + 1, 4)
    return Content.assemble(
        (mark, "$warning"),
        shown.truncate(room, ellipsis=True, pad=True),
        (when.rjust(width - len(mark) - room), "dim"),
    )


def _marked(excerpt: Excerpt) -> Content:
    content = Content(excerpt.text)
    for start, end in excerpt.matches:
        content = content.stylize(_MATCH, start, end)
    return content
