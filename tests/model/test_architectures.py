"""Every architecture that we know is tried whole, on tiny random models: it answers as transformers does and
drafts change nothing, or it is refused in a sentence. tests/model/families.py lists them all; how they ended:

- our own decoders (lean on a CPU, fused on a GPU): Llama, Mistral, Qwen2, Qwen3, up to their window if they
  have one;
- transformers' decoder with our attention, exact to the bit on a CPU: Gemma 1 and 3, Phi 1 to 3, OLMo 1 to 3,
  Granite, StarCoder2, StableLM, Cohere 1 and 2, EXAONE 4, GLM, GPT-NeoX, Ministral, SmolLM3, their windows
  included; Phi-3 with longrope up to where its angles change;
- transformers' decoder and attention, where near-ties can tip: Gemma 2 and 3n, GPT-2, GPT-J, gpt-oss, Falcon,
  Mixtral, OPT, Qwen3 MoE;
- refused before weights are loaded: encoders and decoders, ALiBi, state-space and linear attention, chunked
  attention, GPT-Neo's windows;
- refused once loaded: multi-head latent attention (DeepSeek), Gemma 4's heads of two sizes, RWKV, xLSTM,
  BERT, HyperCLOVA X.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medusa_chat.decoding.tree import best_tree, published_paths
from medusa_chat.engine.opening import fetch, open_model
from medusa_chat.engine.session import Session, session_with
from medusa_chat.errors import UnsupportedModel
from medusa_chat.model.attention import GROUPED_ATTENTION
from medusa_chat.model.loading import adopt_base_model, load_base_model
from medusa_chat.records import Chunk, LoadRequest, Message, Quantization, SamplingOptions
from tests.model.families import (
    AS_THEY_ARE,
    CONTEXT,
    EXACT,
    FOUND_OUT,
    LONG_WINDOW,
    LONGROPE,
    REFUSED,
    random_causal_lm,
    save_family,
)
from tests.model.test_verification import logits_by_tree_and_by_path

CPU = torch.device("cpu")
TREE = best_tree(published_paths(4), 14)
WORKING = {**EXACT, **AS_THEY_ARE}
SHORTER = {"mistral, windows": LONG_WINDOW, "qwen2, windows": LONG_WINDOW, "phi3, longrope": LONGROPE}
OFTEN = {"llama", "mistral, windows", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3, windows", "gpt2"}
PROMPT = 100  # tokens: several windows


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Two that share work this small wait for each other most of the time."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize("family", WORKING)
def test_logits_are_transformers_own_beyond_every_window(family: str) -> None:
    """Its own masks, no cache, eager attention: the model as it was published."""
    base = adopt_base_model(random_causal_lm(WORKING[family]()))
    assert base.context_length == SHORTER.get(family, CONTEXT)
    length = min(PROMPT, base.context_length)
    ids = torch.randint(3, base.vocab_size, (1, length), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = random_causal_lm(WORKING[family]())(input_ids=ids, use_cache=False).logits[0]
        whole = base.logits(base.hidden_states(ids)[0])
        cache = base.new_cache()
        base.prefill(ids[:, :-1], cache)
        last = base.logits(base.forward(ids[:, -1:], cache)[0])
    tolerance = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(whole, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(last[0], expected[-1], rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", EXACT)
def test_tree_equals_paths_to_the_bit(family: str, dtype: torch.dtype) -> None:
    base = adopt_base_model(random_causal_lm(EXACT[family](), dtype))
    assert base.config._attn_implementation == GROUPED_ATTENTION
    prompt_length = min(PROMPT, base.context_length - TREE.depth - 1)
    together, alone = logits_by_tree_and_by_path(base, prompt_length, TREE)
    assert torch.equal(together, alone)


@pytest.mark.parametrize("family", AS_THEY_ARE)
def test_tree_equals_paths_but_for_rounding(family: str) -> None:
    base = adopt_base_model(random_causal_lm(AS_THEY_ARE[family]()))
    assert base.config._attn_implementation == "eager"
    together, alone = logits_by_tree_and_by_path(base, PROMPT, TREE)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4 * float(alone.abs().max()))


def session_from(folder: Path, quantization: Quantization = "none", dtype: Any = "float32") -> Session:
    request = LoadRequest(str(folder), None, quantization, "cpu", dtype)
    fetch(request, lambda progress: None)
    return session_with(open_model(request, lambda progress: None), None)


def drafts_change_nothing(session: Session) -> None:
    """Over two turns that leave every short window behind, cold and warm; drafts are by lookup."""
    words = " ".join(f"w{12 + i % 7}" for i in range(40))
    turns = [Message("user", words), Message("assistant", "w20 w21"), Message("user", "Why")]
    for messages, temperature in ((turns[:1], 0.0), (turns, 0.0), (turns, 0.7)):
        options = SamplingOptions(temperature=temperature, seed=5, max_tokens=24, tree_size=16)
        drafted, plain = (
            _reply(session, messages, replace(options, drafting=drafting)) for drafting in (True, False)
        )
        assert [token for chunk in drafted for token in chunk.ids] == [
            token for chunk in plain for token in chunk.ids
        ]
        assert {chunk.step.num_nodes for chunk in plain} <= {0, 1}
        assert any(chunk.step.num_nodes > 1 for chunk in drafted) or len(plain) < 3


def _reply(session: Session, messages: list[Message], options: SamplingOptions) -> list[Chunk]:
    session.options = options
    return [item for item in session.reply(messages) if isinstance(item, Chunk)]


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow) for name in WORKING]
)
def test_drafts_change_nothing_in_the_whole_engine(tmp_path: Path, family: str) -> None:
    drafts_change_nothing(session_from(save_family(tmp_path, WORKING[family]())))


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
@pytest.mark.parametrize("family", ["gemma3", "phi3, windows"])
def test_nor_in_4_and_8_bits(tmp_path: Path, family: str, quantization: Quantization) -> None:
    session = session_from(save_family(tmp_path, EXACT[family]()), quantization, "bfloat16")
    assert session.info.quantization == quantization
    drafts_change_nothing(session)


@pytest.mark.parametrize("family", REFUSED)
def test_what_can_not_work_is_refused_before_weights_are_loaded(tmp_path: Path, family: str) -> None:
    config, sentence = REFUSED[family]
    config().save_pretrained(tmp_path)  # and no weights at all
    with pytest.raises(UnsupportedModel, match=rf"{sentence}.*; choose a model of another architecture\.$"):
        load_base_model(tmp_path, "none", CPU, torch.float32)


@pytest.mark.parametrize("family", FOUND_OUT)
def test_or_once_it_is_loaded(family: str) -> None:
    config, sentence = FOUND_OUT[family]
    with pytest.raises(UnsupportedModel, match=sentence):
        adopt_base_model(random_causal_lm(config()))
