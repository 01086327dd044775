"""From what the user asked for to a model in memory: resolve, fetch, load."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from medusa_chat.checkpoints import ensure_heads, ensure_local
from medusa_chat.errors import CheckpointError, HeadsMismatch, UnsupportedModel, UsageError
from medusa_chat.model.adapter import ADAPTER_FOLDER, merge_adapter
from medusa_chat.model.base import BaseModel
from medusa_chat.model.fastest import LM_HEAD_NEEDS_A_GPU
from medusa_chat.model.head_files import holds_heads, load_heads, outline_heads
from medusa_chat.model.heads import CONFIG_FILE, MedusaHeads
from medusa_chat.model.loading import adopt_base_model, held_in, load_base_model, pick_device, pick_dtype
from medusa_chat.model.weight_files import read_config
from medusa_chat.records import KVPrecision, LMHeadPrecision, LoadProgress, LoadRequest, Quantization
from medusa_chat.registry import HubSource, ModelSpec, resolve, resolve_heads, spec_name

OnProgress = Callable[[LoadProgress], None]


@dataclass(frozen=True, slots=True)
class Sources:
    """What a load reads, on this machine. heads: a folder or a file; None for a model without."""

    spec: ModelSpec
    folder: Path
    heads: Path | None


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A base model in memory, with what belongs to it."""

    spec: ModelSpec
    base: BaseModel
    tokenizer: Any
    quantization: Quantization
    folder: Path | None = None  # where the base was read from; None for one made in memory
    kv_cache: KVPrecision = "full"
    lm_head: LMHeadPrecision = "full"  # as it is to be held; `fastest` sees to it


def compile_ahead(request: LoadRequest) -> None:
    """Has a CPU's kernels compiled, or read from the disk, by a thread while the model is fetched and read.

    Raises a MedusaError for a model or a device that there isn't.
    """
    spec, device = resolve(request.model), pick_device(request.device)
    if device.type != "cpu":
        return
    from medusa_chat.model.lean import rehearse  # with a compiler, which a GPU needs not

    held = request.quantization or spec.quantization, pick_dtype(request.dtype, device), request.kv_cache

    def compile_all() -> None:
        with contextlib.suppress(Exception):  # it comes again where the kernels are needed, and is told there
            rehearse(*held)

    threading.Thread(target=compile_all, daemon=True).start()


def open_model(request: LoadRequest, on_progress: OnProgress) -> OpenModel:
    """Raises a MedusaError whose text says what to do."""
    spec = resolve(request.model)
    device = pick_device(request.device)
    folder = ensure_local(spec, on_progress)
    quantization = request.quantization or spec.quantization
    on_progress(LoadProgress(f"Loading {spec.name}"))
    base = load_base_model(folder, quantization, device, pick_dtype(request.dtype, device), on_progress)
    tokenizer = load_tokenizer(spec, folder)
    return OpenModel(spec, base, tokenizer, quantization, folder, request.kv_cache, request.lm_head)


def adopt_model(
    causal_lm: Any, tokenizer: Any, kv_cache: KVPrecision = "full", lm_head: LMHeadPrecision = "full"
) -> OpenModel:
    """A transformers model that somebody else has loaded, on its device and in its dtype.

    Raises UsageError without its tokenizer, UnsupportedModel if it can't verify trees.
    """
    if tokenizer is None:
        raise UsageError("A model that is in memory already needs its tokenizer: load(model, tokenizer=…).")
    return model_in_memory(causal_lm, adopt_base_model(causal_lm), tokenizer, kv_cache, lm_head)


def model_in_memory(
    causal_lm: Any,
    base: BaseModel,
    tokenizer: Any,
    kv_cache: KVPrecision = "full",
    lm_head: LMHeadPrecision = "full",
) -> OpenModel:
    """A transformers model by the name it was loaded by. base: made of it."""
    name = str(causal_lm.config.name_or_path or type(causal_lm).__name__)
    spec = ModelSpec(name=spec_name(name), base=name, folder=Path(name))
    return OpenModel(spec, base, tokenizer, held_in(causal_lm), None, kv_cache, lm_head)


def fetch(request: LoadRequest, on_progress: OnProgress) -> Sources:
    """Sees to it that model and heads are on this machine and go together as far as their headers tell,
    before anything large is loaded for nothing.

    Raises a MedusaError whose text says what to do.
    """
    spec = resolve(request.model)
    resolve_heads(spec, request.heads)  # a malformed name fails before anything is fetched
    if request.lm_head != "full" and pick_device(request.device).type != "cuda":
        raise UnsupportedModel(LM_HEAD_NEEDS_A_GPU)
    folder = ensure_local(spec, on_progress)
    place = heads_source(spec, folder, request.heads)
    if place is None:
        return Sources(spec, folder, None)
    heads = ensure_heads(place, on_progress)
    _check_heads(spec, folder, heads)
    return Sources(spec, folder, heads)


def open_heads(model: OpenModel, asked: str | None) -> MedusaHeads | None:
    """The heads asked for (a folder, a file or hub:OWNER/NAME), or those the registry names for this model,
    or those that its own checkpoint holds; None if there are none. They are on the CPU, from where `fastest`
    takes them: a GPU holds them smaller, and hasn't always room for the whole. The adapter that heads were
    trained with is merged into the model's weights.

    Raises ModelNotFound if they aren't there, CheckpointError if they are damaged or can't be fetched,
    HeadsMismatch if they belong to another model, UsageError for a malformed name.
    """
    place = heads_source(model.spec, model.folder, asked)
    if place is None:
        return None
    source = ensure_heads(place, lambda progress: None)
    heads = load_heads(source)
    heads.check_fits(model.base, model.spec.base)
    heads.share_lm_head(model.base)
    _adapt(model.base, heads, source if source.is_dir() else source.parent)
    return heads.to(model.base.dtype).requires_grad_(False)


def heads_source(spec: ModelSpec, base_folder: Path | None, asked: str | None) -> Path | HubSource | None:
    """Where a model's heads are: those asked for, or the registry's, or those in its own checkpoint."""
    place = resolve_heads(spec, asked)
    if place is not None:
        return place
    return base_folder if base_folder is not None and holds_heads(base_folder) else None


def _check_heads(spec: ModelSpec, base_folder: Path, source: Path) -> None:
    heads = outline_heads(source)
    config = read_config(base_folder / CONFIG_FILE)
    if "hidden_size" in config and "vocab_size" in config:  # else the base itself will tell
        heads.check_sizes(config["hidden_size"], config["vocab_size"], spec.base)


def _adapt(base: BaseModel, heads: MedusaHeads, folder: Path) -> None:
    if heads.adapter is not None and base.adapter is None:
        merge_adapter(base, folder / ADAPTER_FOLDER, heads.adapter)
    if heads.adapter != base.adapter:
        raise HeadsMismatch(
            f"Another adapter is merged into the model in memory than the heads in {folder} go with; "
            "load the model anew for them."
        )


def load_tokenizer(spec: ModelSpec, folder: Path) -> Any:
    """The tokenizer in the model's folder, with the chat template that the registry gives it, if any.

    Raises CheckpointError.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"The tokenizer in {folder} can't be loaded: {reason}") from error
    if spec.chat_template_file is not None:
        tokenizer.chat_template = _read_template(spec.chat_template_file)
    return tokenizer


def _read_template(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"The chat template {file} can't be read ({error}); correct chat_template in models.toml."
        ) from None
