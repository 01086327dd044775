"""Tiny random models of many architectures, as folders such as a user would name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from tests.training.chatty import VOCAB_SIZE, tiny_tokenizer

CONTEXT, LONG_WINDOW, LONGROPE = 256, 160, 128
WINDOW = 3  # shorter than a tree is deep
_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW}
_GEMMA3 = {**_SIZES, **_GEMMA, "sliding_window_pattern": 2}
_LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
}
_ALTERNATING = ["sliding_attention", "full_attention"] * 2
_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def _config(name: str, **settings: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, name)(**{**_SIZES, **settings})


def _gemma3_with_eyes() -> Any:
    """As Gemma 3 from 4B on is published: the language model's config inside that of the whole."""
    return transformers.Gemma3Config(text_config=_GEMMA3, vision_config=_VISION, mm_tokens_per_image=4)


# Those whose attention is ours on every device, and to the bit on a CPU.
EXACT: Mapping[str, Callable[[], Any]] = {
    "llama": _config("LlamaConfig"),
    "llama, dynamic rope": _config(
        "LlamaConfig", rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    ),
    "mistral": _config("MistralConfig", sliding_window=None),
    "mistral, windows": _config("MistralConfig", sliding_window=LONG_WINDOW),
    "qwen2": _config("Qwen2Config"),
    "qwen2, windows": _config(
        "Qwen2Config", use_sliding_window=True, sliding_window=LONG_WINDOW, max_window_layers=2
    ),
    "qwen3": _config("Qwen3Config", head_dim=16),
    "gemma": _config("GemmaConfig", head_dim=16),
    "gemma3_text": _config("Gemma3TextConfig", **_GEMMA, sliding_window_pattern=2),
    "gemma3": _gemma3_with_eyes,
    "phi": _config("PhiConfig", num_key_value_heads=4),
    "phi3": _config("Phi3Config"),
    "phi3, windows": _config("Phi3Config", sliding_window=WINDOW),
    "phi3, longrope": _config(
        "Phi3Config", rope_scaling=_LONGROPE, original_max_position_embeddings=LONGROPE
    ),
    "olmo": _config("OlmoConfig"),
    "olmo2": _config("Olmo2Config"),
    "olmo3": _config("Olmo3Config", sliding_window=WINDOW),
    "granite": _config("GraniteConfig", logits_scaling=4.0, embedding_multiplier=5.0),
    "starcoder2": _config("Starcoder2Config", sliding_window=WINDOW),
    "stablelm": _config("StableLmConfig"),
    "cohere": _config("CohereConfig", logit_scale=0.25),
    "cohere2": _config("Cohere2Config", logit_scale=0.25, sliding_window=WINDOW),
    "exaone4": _config("Exaone4Config", sliding_window=WINDOW, sliding_window_pattern=2),
    "glm": _config("GlmConfig", head_dim=16),
    "glm4": _config("Glm4Config", head_dim=16),
    "gpt_neox": _config("GPTNeoXConfig"),
    "ministral": _config("MinistralConfig", head_dim=16, sliding_window=WINDOW, layer_types=_ALTERNATING),
    "smollm3": _config(
        "SmolLM3Config", use_sliding_window=True, sliding_window=WINDOW, layer_types=_ALTERNATING
    ),
}
# Those that run as transformers wrote them.
AS_THEY_ARE: Mapping[str, Callable[[], Any]] = {
    "gemma2": _config("Gemma2Config", **_GEMMA),
    "gemma3n": _config(
        "Gemma3nTextConfig",
        **_GEMMA,
        vocab_size_per_layer_input=VOCAB_SIZE,
        num_kv_shared_layers=2,
        layer_types=_ALTERNATING,
    ),
    "gpt2": _config("GPT2Config"),
    "gpt_oss": _config("GptOssConfig", sliding_window=WINDOW, rope_parameters=None, **_EXPERTS),
    "gptj": _config("GPTJConfig", rotary_dim=16),
    "falcon": _config("FalconConfig", multi_query=True),
    "mixtral": _config("MixtralConfig", sliding_window=WINDOW, **_EXPERTS),
    "opt": _config("OPTConfig", word_embed_proj_dim=64),
    "qwen3_moe": _config("Qwen3MoeConfig", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64),
}
# Those that can't work, by what is said of them; their configs tell.
REFUSED: Mapping[str, tuple[Callable[[], Any], str]] = {
    "bart": (_config("BartConfig"), "read with an encoder"),
    "bloom": (transformers.BloomConfig, "number no positions"),
    "falcon, alibi": (_config("FalconConfig", alibi=True), "ALiBi"),
    "falcon_h1": (_config("FalconH1Config"), "layers of type hybrid"),
    "gpt_neo": (_config("GPTNeoConfig", attention_types=[[["global", "local"], 2]]), "count places"),
    "jamba": (_config("JambaConfig"), "layers of type linear_attention"),
    "lfm2": (_config("Lfm2Config", full_attn_idxs=[1, 3]), "layers of type conv"),
    "llama4": (_config("Llama4TextConfig", intermediate_size_mlp=64), "layers of type chunked_attention"),
    "mamba": (_config("MambaConfig"), "layers of type linear_attention"),
    "mpt": (transformers.MptConfig, "number no positions"),
    "qwen3_next": (_config("Qwen3NextConfig"), "layers of type linear_attention"),
    "recurrent_gemma": (_config("RecurrentGemmaConfig"), "layers of type linear_attention"),
    "t5": (transformers.T5Config, "read with an encoder"),
}
# Those that are found out once they are loaded.
FOUND_OUT: Mapping[str, tuple[Callable[[], Any], str]] = {
    "bert": (_config("BertConfig"), "something that is not known here"),
    "deepseek_v2": (_config("DeepseekV2Config"), "neither our masks nor our cache"),
    "gemma4": (
        _config("Gemma4TextConfig", **_GEMMA, vocab_size_per_layer_input=VOCAB_SIZE),
        "KV heads of different shapes",
    ),
    "hyperclovax": (_config("HyperCLOVAXConfig", logits_scaling=0.25), "something that is not known here"),
    "rwkv": (_config("RwkvConfig"), "branches of a tree apart"),
    "xlstm": (_config("xLSTMConfig"), "neither our masks nor our cache"),
}


def random_causal_lm(config: Any, dtype: torch.dtype = torch.float32, attention: str = "eager") -> Any:
    """Weights large enough for peaked predictions, norms that do something."""
    torch.manual_seed(7)
    causal_lm = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    with torch.no_grad():
        for name, parameter in causal_lm.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.3)
            elif "norm" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return causal_lm.eval()


def save_family(folder: Path, config: Any) -> Path:
    """The model with a tokenizer, as it is published."""
    random_causal_lm(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
