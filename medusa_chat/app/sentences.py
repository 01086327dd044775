"""Errors as the chat says them."""

from __future__ import annotations

from medusa_chat.errors import MedusaError


def sentence_of(error: MedusaError) -> str:
    """The error's text, ended so that another sentence can follow. A crash's last words often end anyhow."""
    text = str(error)
    return text if text.endswith((".", "!", "?")) else f"{text}."
