"""The tokenizer inside a GGUF file, as its authors meant it.

transformers rebuilds it from the file's lists, but no release so far looks at which pre-tokenizer the file
names, and some mix up BOS and EOS, decode byte-level vocabularies as if they were SentencePiece, or drop
spaces.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import GGUFReader
from tokenizers import decoders, pre_tokenizers
from transformers import AutoTokenizer

_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_BYTE_LEVEL = "gpt2"  # what GGUF calls byte-level BPE, whoever's it is
_SPLITS_OFF_DIGITS = {"smollm"}


def load_tokenizer(file: Path) -> Any:
    """The transformers tokenizer of a GGUF file. Raises what transformers raises."""
    fields = GGUFReader(file).fields
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for role, name in _ROLES.items():
        if field := fields.get(f"tokenizer.ggml.{name}_token_id"):
            token = tokenizer.convert_ids_to_tokens(int(field.contents()))
            setattr(tokenizer, f"{role}_token", token)
            # Kept among the arguments it was made with, a wrong id would be saved and come back.
            tokenizer.init_kwargs.pop(f"{role}_token_id", None)
    if fields["tokenizer.ggml.model"].contents() == _BYTE_LEVEL:
        backend = tokenizer.backend_tokenizer
        backend.decoder = decoders.ByteLevel()
        tokenizer.clean_up_tokenization_spaces = False
        tokenizer.init_kwargs["clean_up_tokenization_spaces"] = False
        pre_tokenizer = fields.get("tokenizer.ggml.pre")
        if pre_tokenizer and pre_tokenizer.contents() in _SPLITS_OFF_DIGITS:
            split = pre_tokenizers.Digits(individual_digits=True)
            byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    return tokenizer
