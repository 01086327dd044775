"""Markdown of a model: nothing in it runs, hides or reaches the terminal as a control character."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from textual import on
from textual.widgets import Markdown

from medusa_chat.printable import printable

_OPENED_SCHEMES = ("http", "https")


class _Parser(MarkdownIt):
    """HTML is shown as it is written, as Textual would drop it. Entities may not smuggle controls in."""

    def __init__(self) -> None:
        super().__init__("gfm-like", {"html": False})

    def parse(self, src: str, env: Any = None) -> list[Token]:
        tokens = super().parse(src, env)
        _clean(tokens)
        return tokens


def _clean(tokens: Iterable[Token]) -> None:
    for token in tokens:
        token.content = printable(token.content)
        _clean(token.children or ())


class SafeMarkdown(Markdown):
    """Links open only when they lead to the web, and only on a click."""

    def __init__(self, text: str | None = None) -> None:
        super().__init__(text, parser_factory=_Parser, open_links=False)

    @on(Markdown.LinkClicked)
    def open_web_link(self, event: Markdown.LinkClicked) -> None:
        event.stop()
        if urlsplit(event.href).scheme in _OPENED_SCHEMES:
            self.app.open_url(event.href)
