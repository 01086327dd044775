"""All there is to know of a model before it is loaded: from the registry, the disk, this machine's memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from medusa_chat import checkpoints
from medusa_chat.checkpoints.plans import PullPlan, plan_pull
from medusa_chat.checkpoints.soundness import HEADS_FILES
from medusa_chat.footprint import HALF, kv_bytes_of
from medusa_chat.machine import Memory
from medusa_chat.memory_plan import is_comfortable, longest_fitting, plan_memory
from medusa_chat.model_sizes import HeadSizes, ModelSizes, sizes_about, sizes_of
from medusa_chat.records import KVPrecision, Quantization
from medusa_chat.registry import HubSource, ModelSpec, load_registry, resolve

HeadsState = Literal["none", "shipped", "own", "here", "hub", "missing"]
WIDEST_FIRST: tuple[Quantization, ...] = tuple(reversed(get_args(Quantization)))
_TOLD_CONTEXT = 4096  # tokens with which the memory that a model needs is told


@dataclass(frozen=True, slots=True)
class Entry:
    """model: what to load it by. plan: of the pull that it needs, if any. bytes_on_disk: of the base model.
    heads_bytes, num_weights: in memory, as far as known. sizes: as headers tell, or what is known without
    them; None where the number of weights isn't. kv_cache: how its context would be held.
    """

    model: str
    spec: ModelSpec
    plan: PullPlan | None
    bytes_on_disk: int
    heads: HeadsState
    heads_bytes: int
    num_weights: int | None
    sizes: ModelSizes | None
    kv_cache: KVPrecision

    @property
    def context(self) -> int:
        """Tokens with which the memory that it needs is told."""
        return min(self.spec.context or _TOLD_CONTEXT, _TOLD_CONTEXT)

    def memory_bytes(self, quantization: Quantization, memory: Memory) -> int | None:
        """About what all of it takes there with a context; None where the number of weights isn't known."""
        if self.sizes is None:
            return None
        heads = self._heads()
        return plan_memory(self.sizes, heads, quantization, memory, self.context, self.kv_cache).total

    def longest_context(self, quantization: Quantization, memory: Memory, freed: int = 0) -> int | None:
        """Tokens that it would be loaded with: its own, or what fits; None where too few fit to be of use, or
        nobody knows. freed: bytes that are free once the model that is loaded now is dropped.
        """
        if self.sizes is None:
            return None
        room = min(memory.free + freed, memory.total)
        plan = longest_fitting(self.sizes, self._heads(), quantization, memory, room, self.kv_cache)
        return plan.context_length if plan is not None and is_comfortable(plan, self.sizes) else None

    def fitting(self, memory: Memory, freed: int = 0) -> tuple[Quantization, ...] | None:
        """At which quantisations it fits, widest first; None where that isn't known."""
        if self.sizes is None:
            return None
        return tuple(kind for kind in WIDEST_FIRST if self.longest_context(kind, memory, freed) is not None)

    def _heads(self) -> HeadSizes:
        # Nearly all of what is published is LM heads.
        return HeadSizes(layers=0, lm_heads=self.heads_bytes // HALF)


def read_catalogue(kv_cache: KVPrecision = "full") -> tuple[Entry, ...]:
    """Of all models known by name. Raises UsageError for a malformed models.toml of the user's."""
    return tuple(describe(name, spec, kv_cache) for name, spec in load_registry().items())


def find_entry(model: str, kv_cache: KVPrecision = "full") -> Entry:
    """Of a name, a folder or OWNER/NAME on the hub. Raises ModelNotFound."""
    return describe(model, resolve(model), kv_cache)


def describe(model: str, spec: ModelSpec, kv_cache: KVPrecision) -> Entry:
    """Reads headers on the disk and no weights; asks nobody."""
    place = spec.heads_place
    on_disk = checkpoints.local_bytes(spec)
    num_weights = spec.parameters or (on_disk // HALF or None)
    return Entry(
        model=model,
        spec=spec,
        plan=plan_pull(spec, place),
        bytes_on_disk=on_disk,
        heads=_heads_state(spec, place),
        heads_bytes=spec.heads_bytes or _bytes_of_heads(place),
        num_weights=num_weights,
        sizes=None if num_weights is None else _sizes(spec, num_weights),
        kv_cache=kv_cache,
    )


def _sizes(spec: ModelSpec, num_weights: int) -> ModelSizes:
    config, shapes = checkpoints.find_config(spec), checkpoints.find_shapes(spec)
    if config and shapes and "quantization_config" not in config:
        sizes = sizes_of(config, shapes)
    else:
        sizes = sizes_about(num_weights, kv_bytes_of(config) or 0, None)
    return replace(sizes, kv_bytes=spec.kv_bytes or sizes.kv_bytes, context=spec.context or sizes.context)


def _heads_state(spec: ModelSpec, place: Path | HubSource | None) -> HeadsState:
    if place is None or spec.heads is None:
        return "none"
    here = checkpoints.heads_are_here(place)
    if isinstance(place, HubSource):
        return "here" if here else "hub"
    if not here:
        return "missing"
    return "shipped" if spec.heads.startswith("package:") else "own"


def _bytes_of_heads(place: Path | HubSource | None) -> int:
    if not isinstance(place, Path):
        return 0
    return next((file.stat().st_size for name in HEADS_FILES if (file := place / name).is_file()), 0)
