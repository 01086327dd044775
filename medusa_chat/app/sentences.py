"""What the chat says of errors and of messages left out."""

from __future__ import annotations

from medusa_chat.errors import MedusaError
from medusa_chat.records import ContextPolicy


def sentence_of(error: MedusaError) -> str:
    """The error's text, ended so that another sentence can follow. A crash's last words often end anyhow."""
    text = str(error)
    return text if text.endswith((".", "!", "?")) else f"{text}."


def left_out(num_dropped: int, policy: ContextPolicy) -> str:
    """That the model doesn't read so many messages, which the policy let go."""
    were = "message was" if num_dropped == 1 else f"{num_dropped} messages were"
    which = "the oldest " if policy == "drop-oldest" else ""
    return f"The context is full: {which}{were} left out of what the model reads."
