"""`medusa-chat history`: the conversations kept, without opening the chat."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medusa_chat.commands.options import JsonOption

if TYPE_CHECKING:
    from medusa_chat.history import ConversationRecord, Excerpt, MessageRecord, SearchHit

history = typer.Typer(
    name="history",
    rich_markup_mode=None,
    no_args_is_help=True,
    help="List, read, search and export conversations.",
)
IdArgument = Annotated[int, typer.Argument(metavar="ID", help="A number that `history list` shows.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="At most so many.")]
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


@history.command("list")
def list_conversations(limit: LimitOption = 50, as_json: JsonOption = False) -> None:
    """List conversations: pinned ones first, then the last written to."""
    from medusa_chat.history import History
    from medusa_chat.history.export import summary

    with closing(History()) as store:
        records = store.list(limit)
    if as_json:
        print(json.dumps([summary(record) for record in records], indent=2))
    elif not records:
        print("No conversations are kept yet.")
    for record in () if as_json else records:
        print(_line(record, record.name))


@history.command("show")
def show_conversation(id: IdArgument, as_json: JsonOption = False) -> None:
    """Print one conversation: the branch on the screen; with --json, the others too."""
    from medusa_chat.history.export import as_document

    print(as_document("json" if as_json else "markdown", *_read(id)), end="")


@history.command("search")
def search_conversations(
    words: Annotated[list[str], typer.Argument(metavar="WORDS…", help="All of them must be there.")],
    limit: LimitOption = 20,
    as_json: JsonOption = False,
) -> None:
    """Find conversations by their titles and by all that was said in them."""
    from medusa_chat.history import History

    with closing(History()) as store:
        hits = store.search(" ".join(words), limit)
    if as_json:
        print(json.dumps([_describe(hit) for hit in hits], indent=2))
        return
    if not hits:
        print("Nothing matches.")
    for hit in hits:
        print(_line(hit.conversation, _emphasised(hit.title)))
        if hit.message is not None:
            print(f"{'':6}{hit.role}: {_emphasised(hit.message)}")


@history.command("export")
def export_conversation(
    id: IdArgument,
    form: Annotated[
        Literal["markdown", "json"] | None, typer.Option("--format", help="By --out's ending, or markdown.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A new file; standard output without.")
    ] = None,
) -> None:
    """Write one conversation as Markdown or JSON."""
    from medusa_chat.history.export import as_document, write_new

    document = as_document(form or _form_of(out), *_read(id))
    if out is None:
        print(document, end="")
    else:
        write_new(out, document)
        print(f"The conversation is in {out}.")


def _form_of(out: Path | None) -> Literal["markdown", "json"]:
    return "json" if out is not None and out.suffix.lower() == ".json" else "markdown"


def _read(id: int) -> tuple[ConversationRecord, tuple[MessageRecord, ...]]:
    from medusa_chat.history import History

    with closing(History()) as store:
        return store.conversation(id), store.all_messages(id)


def _line(record: ConversationRecord, title: str) -> str:
    when = datetime.fromtimestamp(record.updated_at).strftime("%Y-%m-%d %H:%M")
    return f"{record.id:>4}  {when}  {'★' if record.pinned else ' '} {title}"


def _emphasised(excerpt: Excerpt) -> str:
    """What matches in bold, where a terminal shows it."""
    if not sys.stdout.isatty():
        return excerpt.text
    text, end = "", 0
    for start, stop in excerpt.matches:
        text += f"{excerpt.text[end:start]}{_BOLD}{excerpt.text[start:stop]}{_PLAIN}"
        end = stop
    return text + excerpt.text[end:]


def _describe(hit: SearchHit) -> dict[str, Any]:
    from medusa_chat.history.export import summary

    return {
        **summary(hit.conversation),
        "title_matches": hit.title.matches,
        "message_id": hit.message_id,
        "role": hit.role,
        "excerpt": hit.message.text if hit.message else None,
        "excerpt_matches": hit.message.matches if hit.message else (),
    }
