"""A load's memory: planned from headers before anything large is read, and told afterwards as it is."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from medusa_chat.checkpoints.weight_names import MODEL_FILES
from medusa_chat.engine.opening import Sources
from medusa_chat.last_load import LastLoad, keep_last_load
from medusa_chat.memory_plan import MemoryPlan, choose_plan
from medusa_chat.model.head_files import outline_heads
from medusa_chat.model.heads import CONFIG_FILE
from medusa_chat.model.loading import pick_device, pick_dtype
from medusa_chat.model.memory import memory_of
from medusa_chat.model.weight_files import find_weight_files, outline_base, read_config
from medusa_chat.model_sizes import HeadSizes, ModelSizes, sizes_of
from medusa_chat.quantities import size
from medusa_chat.records import EngineInfo, LoadRequest


def plan_load(request: LoadRequest, sources: Sources) -> MemoryPlan | None:
    """None where a model's config doesn't tell what its context takes.

    Raises OutOfMemory, which says what would fit.
    """
    model = _model_sizes(sources.folder)
    if model.context is None or not model.kv_bytes:
        return None
    device = pick_device(request.device)
    return choose_plan(
        sources.spec.name,
        model,
        None if sources.heads is None else _head_sizes(sources.heads),
        request.quantization or sources.spec.quantization,
        memory_of(device, pick_dtype(request.dtype, device)),
        request.context_length,
        request.kv_cache,
        request.lm_head,
    )


def shortened(plan: MemoryPlan, own_context: int) -> str:
    """A sentence on a context that is shorter than the model's own."""
    return (
        f"The context is {plan.context_length:,} tokens of the model's {own_context:,}: with more it would "
        f"need over {size(plan.total)}, and that much isn't free."
    )


def record_load(
    info: EngineInfo,
    plan: MemoryPlan | None,
    taken: dict[str, int],
    process: int | None,
    seconds: dict[str, float],
) -> None:
    """Keeps what was planned and what came of it for `doctor`."""
    planned = {} if plan is None else {**asdict(plan), "total": plan.total}
    planned.pop("context_length", None)
    keep_last_load(
        LastLoad(
            model=info.model,
            quantization=info.quantization,
            device=info.device_name,
            dtype=info.dtype,
            context_length=info.context_length,
            date=datetime.now().astimezone().isoformat(timespec="seconds"),
            planned=planned,
            taken=taken if process is None else {**taken, "total": process},
            seconds=seconds,
        )
    )


def _model_sizes(folder: Path) -> ModelSizes:
    config = read_config(folder / CONFIG_FILE)
    tensors = outline_base(find_weight_files(folder, MODEL_FILES))
    is_quantised = "quantization_config" in config
    return sizes_of(
        config,
        {name: tensor.shape for name, tensor in tensors.items()},
        stored=sum(tensor.nbytes for tensor in tensors.values()) if is_quantised else 0,
    )


def _head_sizes(source: Path) -> HeadSizes:
    heads = outline_heads(source)
    lm_heads = getattr(heads, "lm_heads", None)
    in_all = sum(parameter.numel() for parameter in heads.parameters())
    return HeadSizes(
        layers=in_all - (0 if lm_heads is None else lm_heads.numel()),
        lm_heads=0 if lm_heads is None else lm_heads.numel(),
        vocabulary=0 if heads.vocabulary is None else len(heads.vocabulary),
        kind=heads.kind,
    )
