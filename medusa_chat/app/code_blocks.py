"""The code in a reply."""

from __future__ import annotations


def code_blocks(text: str) -> list[str]:
    """What stands in the fences of a Markdown text, in order, without the fences."""
    from markdown_it import MarkdownIt  # the first picture has no use for it

    tokens = MarkdownIt("commonmark").parse(text)
    return [token.content.rstrip("\n") for token in tokens if token.type in ("fence", "code_block")]
