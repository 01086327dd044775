"""Chat models that draft with Medusa heads. For programs: `load` gives a Session that answers messages,
`medusa_generate` lets transformers' own generate() draft.

Nothing heavy is imported before one of them is called: the app and the command line import this package too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from medusa_chat.engine.custom_generate import MedusaGenerate
    from medusa_chat.engine.session import Session
    from medusa_chat.records import Device, DType, KVPrecision, LMHeadPrecision, Quantization

__all__ = ["load", "medusa_generate"]


def load(
    model: str | Path | Any,
    heads: str | Path | None = None,
    *,
    tokenizer: Any = None,
    quant: Quantization | None = None,
    device: Device = "auto",
    dtype: DType = "auto",
    kv_cache: KVPrecision = "full",
    lm_head: LMHeadPrecision = "full",
    context_length: int | None = None,
) -> Session:
    """A session with a model that `medusa-chat models` lists, one in a folder, a repository on the hub, or a
    transformers causal language model that is in memory already, which then needs its tokenizer and is the
    session's from there on. heads: a folder, a file or "hub:OWNER/NAME"; by default those that the registry
    names for the model, or that lie in its own files. kv_cache: "8bit" halves what a conversation takes in
    memory; lm_head: "4bit" holds the base's LM head so, on a GPU; replies may then differ from those of the
    full ones. context_length: tokens at most; by default the model's own, or as many as fit into memory.

    Fetches what isn't here, and takes a second or two to time the model's steps. Raises a MedusaError
    (medusa_chat.errors) whose text says what to do.
    """
    from pathlib import Path

    from medusa_chat.engine.opening import adopt_model
    from medusa_chat.engine.session import open_session, session_with
    from medusa_chat.records import LoadRequest

    folder = None if heads is None else str(heads)
    if isinstance(model, str | Path):
        request = LoadRequest(str(model), folder, quant, device, dtype, kv_cache, context_length, lm_head)
        return open_session(request, lambda progress: None)
    return session_with(
        adopt_model(model, tokenizer, kv_cache, lm_head), folder, asked_context=context_length
    )


def medusa_generate(heads: str | Path | None = None, *, tree_size: int = 16) -> MedusaGenerate:
    """For a transformers model's own `model.generate(…, custom_generate=medusa_generate(heads))`: the same
    tokens, several a step. The model stays as it is. Make it once and hand it to every call: it keeps the
    heads. heads: as for `load`; without, drafts come from the text so far alone. tree_size: nodes of each
    draft, root included; a CPU gains most from few, as 4 or 8.

    Greedy decoding and sampling of one sequence, with any logits processors and stopping criteria. A
    streamer goes in as `stream_to=`, for generate() doesn't hand on its `streamer=`. What it can't do, and
    what is wrong with the heads, generate() raises as a MedusaError (medusa_chat.errors).
    """
    from medusa_chat.engine.custom_generate import MedusaGenerate

    return MedusaGenerate(None if heads is None else str(heads), tree_size)
