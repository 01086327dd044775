"""From what the user asked for to a model in memory: resolve, fetch, load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from medusa_chat.checkpoints import ensure_local
from medusa_chat.errors import CheckpointError, HeadsMismatch
from medusa_chat.model.adapter import ADAPTER_FOLDER, merge_adapter
from medusa_chat.model.base import BaseModel
from medusa_chat.model.head_files import holds_heads, load_heads, outline_heads
from medusa_chat.model.heads import CONFIG_FILE, MedusaHeads
from medusa_chat.model.loading import load_base_model, pick_device, pick_dtype
from medusa_chat.model.weight_files import read_config
from medusa_chat.records import LoadProgress, LoadRequest, Quantization
from medusa_chat.registry import ModelSpec, resolve

OnProgress = Callable[[LoadProgress], None]


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A base model in memory, with what belongs to it."""

    spec: ModelSpec
    base: BaseModel
    tokenizer: Any
    quantization: Quantization
    folder: Path | None = None  # where the base was read from; None for one made in memory


def open_model(request: LoadRequest, on_progress: OnProgress) -> OpenModel:
    """Raises a MedusaError whose text says what to do."""
    spec = resolve(request.model)
    device = pick_device(request.device)
    folder = ensure_local(spec, on_progress)
    quantization = request.quantization or spec.quantization
    _check_heads(spec, folder, request.heads)
    on_progress(LoadProgress(f"Loading {spec.name}"))
    base = load_base_model(folder, quantization, device, pick_dtype(request.dtype, device))
    return OpenModel(spec, base, _load_tokenizer(folder), quantization, folder)


def open_heads(model: OpenModel, folder: str | None) -> MedusaHeads | None:
    """The heads in `folder` (or a file), or those the registry names for this model, or those that its own
    checkpoint holds; None if there are none. The adapter that heads were trained with is merged into the
    model's weights.

    Raises CheckpointError if they are damaged, HeadsMismatch if they belong to another model.
    """
    source = heads_source(model.spec, model.folder, folder)
    if source is None:
        return None
    heads = load_heads(source)
    heads.check_fits(model.base, model.spec.base)
    heads.share_lm_head(model.base)
    _adapt(model.base, heads, source if source.is_dir() else source.parent)
    return heads.to(model.base.device, model.base.dtype).requires_grad_(False)


def heads_source(spec: ModelSpec, base_folder: Path | None, asked: str | None) -> Path | None:
    """Where a model's heads are: those asked for, or the registry's, or those in its own checkpoint."""
    if asked is not None:
        return Path(asked).expanduser()
    if spec.heads_folder is not None:
        return spec.heads_folder
    return base_folder if base_folder is not None and holds_heads(base_folder) else None


def _check_heads(spec: ModelSpec, base_folder: Path, asked: str | None) -> None:
    """What their headers tell, before a large base is loaded for nothing."""
    source = heads_source(spec, base_folder, asked)
    if source is None:
        return
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


def _load_tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"The tokenizer in {folder} can't be loaded: {reason}") from error
