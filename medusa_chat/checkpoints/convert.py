"""GGUF -> bf16 safetensors, tokenizer and chat template: `leash medusa_chat.checkpoints.convert GGUF FOLDER`.

In a process of its own, because reading GGUF takes much memory and time, and transformers talks while at it.
"""

from __future__ import annotations

import sys
from pathlib import Path


def convert(gguf: Path, folder: Path) -> None:
    """Writes a transformers checkpoint of the GGUF file's weights, dequantised, into a new folder."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    from medusa_chat.checkpoints.gguf_tokenizer import load_tokenizer

    # Releases that have GgufConfig keep the weights packed unless told otherwise; the ones before it
    # always unpack.
    packing = getattr(transformers, "GgufConfig", None)
    unpacked = {"quantization_config": packing(dequantize=True)} if packing else {}
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, **unpacked
    )
    tokenizer = load_tokenizer(gguf)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
