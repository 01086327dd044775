"""`model.generate(custom_generate=medusa_generate(…))`: the tokens of generate() alone, several a forward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    LogitsProcessorList,
    StoppingCriteriaList,
    T5Config,
    T5ForConditionalGeneration,
    TextIteratorStreamer,
)

from medusa_chat import medusa_generate
from medusa_chat.engine import custom_generate
from medusa_chat.errors import HeadsMismatch, MedusaError, ModelNotFound
from medusa_chat.model.block_heads import BlockHeads
from medusa_chat.model.path_heads import PathHeads
from medusa_chat.registry import HEADS_DIR
from tests.tiny import random_heads, random_path_heads, tiny_llama
from tests.training.chatty import tiny_tokenizer

PROMPTS = [[5, 6, 7, 8, 5, 6, 7], [9], list(range(3, 60))]
END = 2


def tiny_model(attention: str = "sdpa") -> Any:
    model = tiny_llama(attention=attention).causal_lm
    model.generation_config.eos_token_id = END
    model.generation_config.pad_token_id = 0
    return model


def ids_of(prompt: list[int]) -> torch.Tensor:
    return torch.tensor([prompt])


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    random_path_heads(tiny_llama(), 3).save(tmp_path / "heads")
    return tmp_path / "heads"


class Forwards:
    """Counts a model's forwards."""

    def __init__(self, model: Any) -> None:
        self.number = 0
        model.model.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.number += 1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["path", "block", "none"])
def test_greedy_decoding_gives_the_same_tokens(tmp_path: Path, kind: str, attention: str) -> None:
    model = tiny_model(attention)
    if kind != "none":
        make = random_path_heads if kind == "path" else random_heads
        make(tiny_llama(), 3).save(tmp_path)
    medusa = medusa_generate(None if kind == "none" else tmp_path, tree_size=8)
    for prompt in PROMPTS:
        plain = model.generate(ids_of(prompt), max_new_tokens=60)
        assert torch.equal(model.generate(ids_of(prompt), max_new_tokens=60, custom_generate=medusa), plain)


def test_a_forward_brings_several_tokens() -> None:
    model = tiny_model()
    period = [5, 6, 7, 8, 9, 10]

    def force(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # so that the text repeats itself
        wanted = period[ids.shape[1] % len(period)]
        return torch.full_like(scores, -1.0).index_fill(1, torch.tensor([wanted]), 1.0)

    forwards = Forwards(model)
    out = model.generate(
        ids_of(period * 2),
        max_new_tokens=60,
        logits_processor=LogitsProcessorList([force]),
        custom_generate=medusa_generate(tree_size=8),
    )
    assert out[0].tolist() == period * 12
    assert forwards.number < 25


SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"top_k": 5},
    {"temperature": 1.5, "top_p": 0.8},
    {"min_p": 0.05, "top_k": 0},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    {"min_new_tokens": 20, "bad_words_ids": [[41], [5, 6]]},
    {"exponential_decay_length_penalty": (5, 1.1)},
]


@pytest.mark.parametrize("options", SAMPLINGS, ids=lambda options: "-".join(options))
def test_a_seed_gives_the_same_samples(heads: Path, options: dict[str, Any]) -> None:
    model, medusa = tiny_model(), medusa_generate(heads, tree_size=8)
    lengths = set()
    for seed in range(4):
        outputs, states = [], []
        for loop in (None, medusa):
            torch.manual_seed(seed)
            outputs.append(
                model.generate(
                    ids_of(PROMPTS[0]), max_new_tokens=24, do_sample=True, custom_generate=loop, **options
                )
            )
            states.append(torch.get_rng_state())
        assert torch.equal(*outputs)
        assert torch.equal(*states)  # not one number more was drawn
        lengths.add(outputs[0].shape[1])
    assert len(lengths) > 1 or "min_new_tokens" in options


def first_new(length: int) -> Callable[[torch.Tensor, object], torch.Tensor]:
    def is_over(ids: torch.Tensor, scores: object) -> torch.Tensor:
        return torch.tensor([ids.shape[1] >= length])

    return is_over


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 1},
        {"max_length": 20},
        {"max_new_tokens": 60, "eos_token_id": [END, 22, 47]},
        {"max_new_tokens": 60, "stopping_criteria": StoppingCriteriaList([first_new(13)])},
        {"generation_config": None},
    ],
    ids=["one", "max_length", "eos", "criterion", "defaults"],
)
def test_it_stops_where_generate_does(heads: Path, options: dict[str, Any]) -> None:
    model = tiny_model()
    plain = model.generate(ids_of(PROMPTS[0]), **options)
    assert torch.equal(
        model.generate(ids_of(PROMPTS[0]), custom_generate=medusa_generate(heads), **options), plain
    )


class Recorder:
    """A streamer."""

    def __init__(self) -> None:
        self.heard: list[list[int] | str] = []

    def put(self, value: torch.Tensor) -> None:
        self.heard.append(value.flatten().tolist())

    def end(self) -> None:
        self.heard.append("end")


def test_a_streamer_hears_what_it_would_of_generate(heads: Path) -> None:
    model, plain, streamed = tiny_model(), Recorder(), Recorder()
    model.generate(ids_of(PROMPTS[0]), max_new_tokens=20, streamer=plain)
    model.generate(
        ids_of(PROMPTS[0]), max_new_tokens=20, custom_generate=medusa_generate(heads), stream_to=streamed
    )
    assert streamed.heard == plain.heard
    assert len(plain.heard) > 10


@pytest.mark.parametrize("num_beams", [1, 2], ids=["text", "refusal"])
def test_a_reader_in_another_thread_always_hears_the_end(heads: Path, num_beams: int) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    failures: list[MedusaError] = []

    def answer() -> None:
        try:
            model.generate(
                ids_of(PROMPTS[0]),
                max_new_tokens=8,
                num_beams=num_beams,
                custom_generate=medusa_generate(heads),
                stream_to=streamer,
            )
        except MedusaError as error:
            failures.append(error)

    thread = Thread(target=answer)
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert (len(text.split()), len(failures)) == ((8, 0) if num_beams == 1 else (0, 1))


def test_the_model_stays_as_it_is(heads: Path) -> None:
    model = tiny_model()
    model.requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    out = model.generate(ids_of(PROMPTS[0]), max_new_tokens=10, custom_generate=medusa_generate(heads))
    assert model.config._attn_implementation == "sdpa"
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not out.is_inference()


def test_heads_are_opened_once_for_a_model(heads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    really = custom_generate.open_heads
    monkeypatch.setattr(
        custom_generate, "open_heads", lambda *arguments: opened.append(arguments) or really(*arguments)
    )
    model, medusa = tiny_model(), medusa_generate(heads)
    for prompt in PROMPTS:
        model.generate(ids_of(prompt), max_new_tokens=5, custom_generate=medusa)
    assert len(opened) == 1
    model.bfloat16()
    model.generate(ids_of(PROMPTS[0]), max_new_tokens=5, custom_generate=medusa)
    tiny_model().generate(ids_of(PROMPTS[0]), max_new_tokens=5, custom_generate=medusa)
    assert len(opened) == 3


PADDED = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"inputs": ids_of(PROMPTS[0]).repeat(3, 1)}, "one sequence at a time, not for 3; call generate"),
    ({"num_return_sequences": 2, "do_sample": True}, "one sequence at a time, not for 2"),
    ({"num_beams": 2}, "greedy decoding and sampling, not beam search; leave custom_generate out"),
    ({"prompt_lookup_num_tokens": 3}, "greedy decoding and sampling, not assisted generation"),
    ({"return_dict_in_generate": True}, "leave return_dict_in_generate out"),
    ({"attention_mask": PADDED}, "The prompt is padded"),
    ({"position_ids": torch.arange(7)[None] + 4}, "leave position_ids out"),
    ({"past_key_values": DynamicCache()}, "a cache of another kind; leave yours out"),
    ({"inputs": None, "inputs_embeds": torch.zeros(1, 4, 32)}, "leave inputs_embeds out"),
    ({"max_new_tokens": 250}, "may become 257, but this model's context is 256; lower max_new_tokens"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_can_t_be_done_is_said_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    arguments = {"inputs": ids_of(PROMPTS[0]), "max_new_tokens": 5, **options}
    with pytest.raises(MedusaError, match=sentence) as error:
        tiny_model().generate(**arguments, custom_generate=medusa_generate())
    assert "\n" not in str(error.value)


def test_models_it_is_not_for() -> None:
    model = tiny_model().train()
    with pytest.raises(MedusaError, match=r"being trained; call model.eval\(\) first"):
        model.generate(ids_of(PROMPTS[0]), custom_generate=medusa_generate())
    assert model.training
    model = tiny_model()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(MedusaError, match=r'by flash_attention_2 .*set_attn_implementation\("sdpa"\)'):
        medusa_generate()(model, ids_of(PROMPTS[0]), None, None, model.generation_config)
    t5 = T5Config(vocab_size=32, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    t5.decoder_start_token_id = 0
    with pytest.raises(MedusaError, match="this one has an encoder"):
        T5ForConditionalGeneration(t5).eval().generate(
            ids_of([3, 4]), custom_generate=medusa_generate(), max_new_tokens=3
        )


def test_heads_it_is_not_for(tmp_path: Path, heads: Path) -> None:
    def answer(place: Path | str) -> None:
        tiny_model().generate(ids_of([5]), max_new_tokens=3, custom_generate=medusa_generate(place))

    PathHeads.fresh(2, 1, 32, 48).save(tmp_path / "wide")
    with pytest.raises(HeadsMismatch, match="hidden size of 48"):
        answer(tmp_path / "wide")
    BlockHeads(torch.zeros(1, 2, 32, 32), torch.zeros(1, 2, 1, 32), config={"adapter": "0a"}).save(
        tmp_path / "adapted"
    )
    with pytest.raises(HeadsMismatch, match="go with an adapter, which would change your model"):
        answer(tmp_path / "adapted")
    with pytest.raises(ModelNotFound, match=str(tmp_path / "gone")):
        answer(tmp_path / "gone")
    with pytest.raises(MedusaError, match="no hub:OWNER/NAME"):
        answer("hub:nobody")
    with pytest.raises(ValueError, match="between 1 and 64 nodes, not 65"):
        medusa_generate(heads, tree_size=65)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_default_model_answers_the_same_but_for_near_ties(
    default_model: Path, dtype: torch.dtype
) -> None:
    """What rounding may tip: the best two tokens of a row, when they are a few last bits apart."""
    model = AutoModelForCausalLM.from_pretrained(default_model, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(default_model)
    message = [{"role": "user", "content": "Write a story about a robot."}]
    inputs = tokenizer.apply_chat_template(
        message, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    options = {"max_new_tokens": 24, "do_sample": False}
    plain = model.generate(**inputs, **options)[0]
    forwards = Forwards(model)
    medusa = medusa_generate(HEADS_DIR / "smollm2-135m")
    drafted = model.generate(**inputs, **options, custom_generate=medusa)[0]
    num_new = len(drafted) - inputs["input_ids"].shape[1]
    assert forwards.number < num_new
    same = next((i for i, (a, b) in enumerate(zip(plain, drafted, strict=False)) if a != b), len(plain))
    if same < len(plain):
        with torch.no_grad():
            logits = model(plain[None, :same]).logits[0, -1].float()
        apart = abs(float(logits[plain[same]] - logits[drafted[same]]))
        assert apart <= 2 * torch.finfo(dtype).eps * abs(float(logits[plain[same]]))
