"""Chat models that draft with Medusa heads. For programs: `load` gives a Session that answers messages.

Nothing heavy is imported before `load` is called: the app and the command line import this package too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from medusa_chat.engine.session import Session
    from medusa_chat.records import Device, DType, KVPrecision, Quantization

__all__ = ["load"]


def load(
    model: str | Path | Any,
    heads: str | Path | None = None,
    *,
    tokenizer: Any = None,
    quant: Quantization | None = None,
    device: Device = "auto",
    dtype: DType = "auto",
    kv_cache: KVPrecision = "full",
) -> Session:
    """A session with a model that `medusa-chat models` lists, one in a folder, or a transformers causal
    language model that is in memory already, which then needs its tokenizer and is the session's from there
    on. heads: their folder; by default those that the registry names for the model. kv_cache: "8bit" halves
    what a conversation takes in memory; replies may then differ from those of the full one.

    Takes a second or two to time the model's steps. Raises a MedusaError whose text says what to do.
    """
    from pathlib import Path

    from medusa_chat.engine.opening import adopt_model, fetch, open_model
    from medusa_chat.engine.session import session_with
    from medusa_chat.records import LoadRequest

    folder = None if heads is None else str(heads)
    if isinstance(model, str | Path):
        request = LoadRequest(str(model), folder, quant, device, dtype, kv_cache)
        fetch(request, lambda progress: None)
        opened = open_model(request, lambda progress: None)
    else:
        opened = adopt_model(model, tokenizer, kv_cache)
    return session_with(opened, folder)
