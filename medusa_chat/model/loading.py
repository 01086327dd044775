"""From a folder on disk to a BaseModel on a device, quantised by bitsandbytes if asked."""

from __future__ import annotations

import logging
import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from transformers import BitsAndBytesConfig
from transformers.utils import CONFIG_NAME

from medusa_chat.checkpoints.quantised import copy_of
from medusa_chat.errors import CheckpointError, OutOfMemory, UnsupportedModel
from medusa_chat.footprint import LLAMA_FAMILY
from medusa_chat.model.architecture import PLAIN_ATTENTION
from medusa_chat.model.attention import GROUPED_ATTENTION
from medusa_chat.model.base import BaseModel
from medusa_chat.model.keeping import OnProgress, keep, read_kept
from medusa_chat.model.reading import read_model
from medusa_chat.model.weight_files import read_config
from medusa_chat.records import Device, DType, Quantization


def pick_device(device: Device) -> torch.device:
    """The device asked for; auto is CUDA where there is one. Raises UnsupportedModel without a GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UnsupportedModel(
            "No CUDA device was found here. Use --device cpu, or check the driver with `medusa-chat doctor`."
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    # By its number: a process that trains beside others has a current GPU of its own.
    return torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device(device)


def pick_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """The dtype asked for; auto is bfloat16 where the device computes in it, else float16 or float32."""
    if dtype != "auto":
        return getattr(torch, dtype)  # type: ignore[no-any-return]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def load_base_model(
    folder: Path,
    quantization: Quantization,
    device: torch.device,
    dtype: torch.dtype,
    on_progress: OnProgress = lambda progress: None,
) -> BaseModel:
    """Loads the transformers checkpoint in `folder`. No code from the checkpoint runs. What is quantised here
    is kept, and read from there the next time.

    Raises CheckpointError for a damaged folder, UnsupportedModel for an architecture that can't be
    verified by trees, OutOfMemory if memory runs out, whatever was planned (engine/memory.py).
    """
    silence_libraries()
    read = partial(_read, base=folder, quantization=quantization, device=device, dtype=dtype)
    if quantization == "none" or "quantization_config" in read_config(folder / CONFIG_NAME):
        return adopt_base_model(read(folder))
    copy = copy_of(folder, quantization, str(dtype).removeprefix("torch."), device.type)
    causal_lm = read_kept(copy, read, on_progress)
    if causal_lm is None:
        causal_lm = read(folder)
        keep(causal_lm, copy, on_progress)
    return adopt_base_model(causal_lm)


def _read(
    folder: Path, base: Path, quantization: Quantization, device: torch.device, dtype: torch.dtype
) -> Any:
    """The transformers model in a folder: the base's, or one with its weights quantised already."""
    try:
        config = quantization_config_for(quantization, dtype) if folder == base else None
        return read_model(folder, base, config, device, dtype)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"The model in {folder} holds something other than tensors, so it was not opened; "
            "look for .safetensors files of the same weights."
        ) from error
    except (OSError, safetensors.SafetensorError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise OutOfMemory(
                f"Memory ran out while the model in {base} was loaded. Free some, or choose a smaller "
                "--quant or another --device."
            ) from error
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"The model in {folder} can't be loaded: {reason}") from error
    except (KeyError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UnsupportedModel(f"The model in {folder} is not one that can be run here: {reason}") from error


def adopt_base_model(causal_lm: Any) -> BaseModel:
    """Of a transformers model in memory, which no longer learns. Raises UnsupportedModel if it can't verify
    trees.
    """
    if causal_lm.config.model_type in PLAIN_ATTENTION:
        causal_lm.set_attn_implementation(GROUPED_ATTENTION)
    base = BaseModel(causal_lm.requires_grad_(False))
    if causal_lm.config.model_type not in LLAMA_FAMILY:
        check_trees_work(base)
    return base


def held_in(causal_lm: Any) -> Quantization:
    """How the weights of a transformers model are held."""
    if getattr(causal_lm, "is_loaded_in_4bit", False):
        return "4bit"
    return "8bit" if getattr(causal_lm, "is_loaded_in_8bit", False) else "none"


def silence_libraries() -> None:
    """Keeps their advice to programmers off the user's screen."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # It warns at every 8-bit product that it casts its input.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@torch.inference_mode()
def check_trees_work(base: BaseModel) -> None:
    """Raises UnsupportedModel unless two branches verified in one tree give what each gives alone, and what
    transformers gives by itself.

    Architectures outside the Llama family are taken as they come; one that ignores a 4-D mask or our
    cache, or does something to its logits that we don't know of, would silently answer wrongly, so it is
    asked first.
    """
    ids = torch.arange(3, 7, device=base.device)[None]  # (1, 4): a root, two siblings, a child of the second
    positions = torch.tensor([0, 1, 1, 2], device=base.device)
    visible = torch.tensor(
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]], dtype=torch.bool, device=base.device
    )
    try:
        tree = base.logits(base.forward(ids, base.new_cache(16), positions, visible)[0, 3:]).float()
        path = base.logits(base.forward(ids[:, [0, 2, 3]], base.new_cache(16))[0, 2:]).float()
        alone = base.causal_lm(input_ids=ids[:, [0, 2, 3]], use_cache=False).logits[0, 2:].float()
    except (TypeError, AttributeError, RuntimeError, ValueError, LookupError) as error:
        raise _no_trees(base, "take neither our masks nor our cache") from error
    tolerance = float(alone.abs().max()) * (1e-3 if base.dtype == torch.float32 else 5e-2)
    if not torch.allclose(tree, path, atol=tolerance, rtol=0):
        raise _no_trees(base, "don't keep the branches of a tree apart")
    if not torch.allclose(path, alone, atol=tolerance, rtol=0):
        raise _no_trees(base, "compute something that is not known here")


def _no_trees(base: BaseModel, what_they_do: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{base.config.model_type} models can't verify a draft tree: they {what_they_do}. "
        "Choose a model of another architecture."
    )


def quantization_config_for(quantization: Quantization, dtype: torch.dtype) -> Any:
    """transformers' BitsAndBytesConfig for weights that compute in `dtype`, or None for whole weights."""
    if quantization == "4bit":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    if quantization == "8bit":
        # Threshold 0: no outlier decomposition, which would synchronise the device at every layer.
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how torch says that memory ran out: its own class on a GPU, words on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def device_name(device: torch.device) -> str:
    """What to call the device in reports."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = _cpu_model_name() or "CPU"
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def _cpu_model_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
