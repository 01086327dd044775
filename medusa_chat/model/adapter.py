"""A LoRA adapter (arXiv 2106.09685) learnt together with heads: W + scale · B A in place of every W of the
decoder's linear layers.

For training peft puts it on beside the layers; for use it is merged into their weights, so that decoding with
it costs nothing. On disk it has peft's own format: adapter_config.json and adapter_model.safetensors with
base_model.model.{layer}.lora_A.weight (r, in) and .lora_B.weight (out, r).
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from medusa_chat.errors import CheckpointError, HeadsMismatch, UnsupportedModel
from medusa_chat.files import write_whole, writing
from medusa_chat.model.base import BaseModel

ADAPTER_FOLDER = "adapter"
_WEIGHTS_FILE = "adapter_model.safetensors"
_CONFIG_FILE = "adapter_config.json"
_DOWN = re.compile(r"base_model\.model\.(.+)\.lora_A\.weight")
# Kinds of LoRA whose product isn't scale · B A with one scale for all layers.
_OTHER_KINDS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "lora_bias", "use_bdlora")


class Adapter:
    """A fresh adapter on a base model, for training: at first it changes nothing. Must run under autocast
    unless the base is in float32, as its own weights are.
    """

    def __init__(self, base: BaseModel, rank: int, alpha: float, dropout: float) -> None:
        """scale = alpha / rank. Raises UnsupportedModel for 4 bits on a CPU."""
        import peft  # it takes a second, and only training needs it
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = base.causal_lm.modules()
        if base.device.type == "cpu" and any(type(layer).__name__ == "Linear4bit" for layer in layers):
            # Once it has answered, bitsandbytes holds them in a form that gradients don't pass.
            raise UnsupportedModel(
                "An adapter can't be trained on 4-bit weights on a CPU; use --quant none or a GPU."
            )
        config = peft.LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules="all-linear",  # of the decoder; the LM head is none of them
            task_type="CAUSAL_LM",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it asks transformers by an old name
            self._peft: Any = peft.get_peft_model(base.causal_lm, config)
        self._dtype = base.dtype
        self._layers = [layer for layer in self._peft.modules() if isinstance(layer, BaseTunerLayer)]
        for layer in self._layers:
            layer.cast_input_dtype_enabled = False  # to float32, where autocast would only cast back

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """What trains, by name."""
        return {name: weight for name, weight in self._peft.named_parameters() if ".lora_" in name}

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """The base as it is without the adapter."""
        for layer in self._layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self._layers:
                layer.enable_adapters(True)

    def remember_less(self) -> None:
        """Layers run again on the way back instead of keeping what gradients need: a third more time, and
        memory for one layer instead of all.
        """
        causal_lm = self._peft.base_model.model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # transformers 5.23 has another name for it
            causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
        for module in causal_lm.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.training = True  # without it they don't; what is inside them stays as it is

    def save(self, folder: Path, base_name: str) -> str:
        """Writes it into `folder`; returns its digest. Raises CheckpointError on a full disk and such."""
        import peft

        tensors = peft.get_peft_model_state_dict(self._peft)
        on_cpu = {
            name: tensor.detach().to("cpu", self._dtype).contiguous() for name, tensor in tensors.items()
        }
        config = {**self._peft.peft_config["default"].to_dict(), "base_model_name_or_path": base_name}
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / _WEIGHTS_FILE, safetensors.torch.save(on_cpu))
        write_whole(folder / _CONFIG_FILE, (json.dumps(config, indent=1, default=sorted) + "\n").encode())
        return _digest(folder)

    def take_off(self) -> None:
        """The base is as it was before; this can't be used any more."""
        causal_lm = self._peft.unload()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            causal_lm.gradient_checkpointing_disable()
        causal_lm.eval()


@torch.no_grad()
def merge_adapter(base: BaseModel, folder: Path, digest: str) -> None:
    """Merges the adapter in `folder` into the base's weights, in place; `base.adapter` tells of it.

    Quantised layers are quantised anew from the checkpoint's whole weights: a low-rank change is smaller than
    a step of 4 bits, and added to weights that lie on those steps already it is rounded away (as peft's own
    merging does: on the default model the result was the base without the adapter).

    Raises CheckpointError if the adapter is missing, damaged or not the one with this digest, HeadsMismatch
    if it doesn't fit the base, UnsupportedModel if it or the base's checkpoint is of a kind that can't be
    merged.
    """
    changes = [(_layer_of(base, change), change) for change in _read(folder, digest)]
    checkpoint = _WholeWeights(Path(base.causal_lm.name_or_path))
    for layer, change in changes:
        weight = layer.weight if layer.weight.is_floating_point() else checkpoint[change.layer]
        turned = Conv1D in (type(layer), getattr(layer, "source_cls", None))  # it keeps (in, out)
        weight = (weight.T if turned else weight).to(base.device, torch.float32)
        merged = (weight + change.delta(base.device)).to(base.dtype)  # (out, in)
        _set_weight(layer, merged)
    base.causal_lm.adapter_digest = digest


@dataclass(frozen=True, slots=True)
class _Change:
    """scale · up @ down, to be added to a layer's weight: down (r, in), up (out, r)."""

    layer: str
    down: torch.Tensor
    up: torch.Tensor
    scale: float

    def delta(self, device: torch.device) -> torch.Tensor:
        """(out, in) float32."""
        return self.scale * (self.up.to(device).float() @ self.down.to(device).float())


def _read(folder: Path, digest: str) -> list[_Change]:
    config_file, weights_file = folder / _CONFIG_FILE, folder / _WEIGHTS_FILE
    for file in (config_file, weights_file):
        if not file.exists():
            raise CheckpointError(
                f"These heads were trained together with an adapter, but {file} is missing; "
                "fetch or train them again."
            )
    if _digest(folder) != digest:
        raise CheckpointError(
            f"The adapter in {folder} is damaged or not the one these heads were trained with; "
            "fetch or train them again."
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(weights_file)
        scale = config["lora_alpha"] / config["r"]
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"The adapter in {folder} is damaged ({error}); fetch or train the heads again."
        ) from None
    layers = [match[1] for match in map(_DOWN.fullmatch, tensors) if match]
    pairs = {layer: (_name(layer, "A"), _name(layer, "B")) for layer in layers}
    is_other = any(map(config.get, _OTHER_KINDS)) or set(tensors) != {n for p in pairs.values() for n in p}
    if config.get("peft_type") != "LORA" or is_other:
        raise UnsupportedModel(
            f"The adapter in {folder} is of a kind that can't be merged here; use plain LoRA."
        )
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise CheckpointError(f"{weights_file} holds values that are not numbers; train the heads again.")
    return [_Change(layer, tensors[down], tensors[up], scale) for layer, (down, up) in pairs.items()]


def _name(layer: str, part: str) -> str:
    return f"base_model.model.{layer}.lora_{part}.weight"


def _digest(folder: Path) -> str:
    content = [(folder / name).read_bytes() for name in (_WEIGHTS_FILE, _CONFIG_FILE)]
    return hashlib.sha256(b"".join(content)).hexdigest()[:16]


def _layer_of(base: BaseModel, change: _Change) -> Any:
    try:
        layer: Any = base.causal_lm.get_submodule(change.layer)
    except AttributeError:
        layer = None
    is_conv = type(layer) is Conv1D
    sizes = [
        getattr(layer, name, None) for name in (("nf", "nx") if is_conv else ("out_features", "in_features"))
    ]
    if sizes != [change.up.shape[0], change.down.shape[1]]:
        raise HeadsMismatch(
            f"The adapter beside these heads doesn't fit this model at {change.layer}; "
            "choose heads trained for it."
        )
    return layer


class _WholeWeights:
    """The base's weights as its checkpoint has them, by the names of their layers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, layer: str) -> torch.Tensor:
        name = f"{layer}.weight"
        if name in self._files:
            with safetensors.safe_open(self._files[name], framework="pt") as file:
                weight: torch.Tensor = file.get_tensor(name)
            if weight.is_floating_point():
                return weight
        raise UnsupportedModel(
            f"An adapter can't be merged into the quantised model in {self._folder}, which lacks the whole "
            f"weights of {layer}; choose heads without an adapter."
        )

    @cached_property
    def _files(self) -> dict[str, Path]:
        files: dict[str, Path] = {}
        for file in self._folder.glob("*.safetensors"):
            with safetensors.safe_open(file, framework="pt") as tensors:
                files |= dict.fromkeys(tensors.keys(), file)
        return files


def _set_weight(layer: Any, weight: torch.Tensor) -> None:
    """Puts (out, in) in place of a layer's weight, quantised as that was."""
    old, kind = layer.weight, type(layer).__name__
    if kind == "Linear4bit":
        from bitsandbytes.nn import Params4bit

        layer.weight = Params4bit(
            weight,
            quant_type=old.quant_type,
            blocksize=old.blocksize,
            compress_statistics=old.compress_statistics,
            quant_storage=old.quant_storage,
            module=layer,
        ).to(weight.device)
    elif kind == "Linear8bitLt":
        from bitsandbytes.nn import Int8Params

        layer.weight = Int8Params(weight.cpu(), requires_grad=False).to(weight.device)
        layer.state.CB = layer.state.SCB = None  # of the old one
    else:
        old.copy_(weight.T if type(layer) is Conv1D else weight)
