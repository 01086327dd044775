"""Chat models that draft with Medusa heads. For programs: `load` gives a Session that answers messages.

Nothing heavy is imported before `load` is called: the app and the command line import this package too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from medusa_chat.engine.session import Session
    from medusa_chat.records import Device, DType, Quantization

__all__ = ["load"]


def load(
    model: str | Path | Any,
    heads: str | Path | None = None,
    *,
    tokenizer: Any = None,
    quant: Quantization | None = None,
    device: Device = "auto",
    dtype: DType = "auto",
    context_length: int | None = None,
) -> Session:
    """A session with a model that `medusa-chat models` lists, one in a folder, or a transformers causal
    language model that is in memory already, which then needs its tokenizer and is the session's from there
    on. heads: their folder; by default those that the registry names for the model. context_length:
    tokens at most; by default the model's own, or as many as fit into memory.

    Takes a second or two to time the model's steps. Raises a MedusaError whose text says what to do.
    """
    from pathlib import Path

    from medusa_chat.engine.opening import adopt_model
    from medusa_chat.engine.session import open_session, session_with
    from medusa_chat.records import LoadRequest

    folder = None if heads is None else str(heads)
    if isinstance(model, str | Path):
        request = LoadRequest(str(model), folder, quant, device, dtype, context_length)
        return open_session(request, lambda progress: None)
    return session_with(adopt_model(model, tokenizer), folder, asked_context=context_length)
