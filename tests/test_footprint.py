"""The arithmetic of memory, against hand-made figures and real shapes."""

from __future__ import annotations

import pytest

from medusa_chat.bench.shapes import SHAPES
from medusa_chat.checkpoints.catalogue import find_entry, read_catalogue
from medusa_chat.footprint import kv_bytes_of, matrix_bytes, weights_bytes
from medusa_chat.machine import Memory
from medusa_chat.memory_plan import STARTED


def test_weights_and_matrices() -> None:
    assert weights_bytes(1_000_000, "none") == 2_000_000
    assert weights_bytes(1_000_000, "none", 4) == 4_000_000
    assert weights_bytes(1_000_000, "8bit", 4) == 1_000_000
    assert matrix_bytes(64, 128, "4bit") == 64 * 64 + 4 * 128
    assert matrix_bytes(64, 128, "8bit") == 64 * 128 + 4 * 64
    # The rule of thumb for whole models is a little more than linears alone take.
    assert 0.9 < matrix_bytes(4096, 4096, "4bit") / weights_bytes(4096 * 4096, "4bit") <= 1.01


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("vicuna-7b", "llama-2-7b"),
        ("vicuna-7b-v1.5", "llama-2-7b"),
        ("zephyr-7b", "mistral-7b"),
        ("mistral-7b-instruct-v0.2", "mistral-7b"),
        ("llama-3.1-8b-instruct", "llama-3-8b"),
    ],
)
def test_what_the_registry_says_of_keys_and_values_is_what_a_config_says(model: str, shape: str) -> None:
    known = SHAPES[shape]
    config = {
        "num_hidden_layers": known.num_layers,
        "num_attention_heads": known.num_heads,
        "num_key_value_heads": known.num_kv_heads,
        "hidden_size": known.hidden_size,
    }
    sizes = find_entry(model).sizes
    assert sizes is not None
    assert sizes.kv_bytes == kv_bytes_of(config)
    assert kv_bytes_of({"text_config": config}) == kv_bytes_of(config)
    in_8_bits = kv_bytes_of(config, "8bit")
    assert in_8_bits == 2 * known.num_layers * known.num_kv_heads * (known.head_dim + 4)


@pytest.mark.parametrize("config", [{}, {"num_hidden_layers": "two"}, {"num_attention_heads": 0}])
def test_a_config_that_does_not_say_gives_nothing(config: dict[str, object]) -> None:
    assert kv_bytes_of(config) is None


def test_a_model_that_is_here_is_read_from_its_files(default_model_here: str) -> None:
    entry = find_entry(default_model_here)
    assert entry.plan is None
    assert entry.heads == "shipped"
    assert entry.heads_bytes > 1_000_000
    memory = Memory("cpu", "this machine", 10**10, 10**10, 2)
    assert entry.sizes is not None
    assert entry.sizes.weights_bytes("none") == 2 * 134_515_008
    assert entry.sizes.head_dim == 64
    needed = entry.memory_bytes("none", memory)
    assert needed is not None
    # With the tied LM head packed once more, and keys and values in float32.
    held = 2 * (134_515_008 + 49152 * 576) + entry.heads_bytes + 2 * (4096 + 64) * 23_040 + STARTED["cpu"]
    assert held < needed < 1.5 * held
    assert entry.longest_context("none", memory) == 8192


def test_what_fits_is_widest_first_and_unknown_where_nothing_is_known() -> None:
    entries = {entry.model: entry for entry in read_catalogue()}
    card = Memory("cuda", "card", 24_000_000_000, 10_000_000_000, 2)
    assert entries["vicuna-7b"].fitting(card) == ("8bit", "4bit")
    assert entries["vicuna-7b"].fitting(card, freed=20_000_000_000) == ("none", "8bit", "4bit")
    assert entries["vicuna-13b"].fitting(card, freed=20_000_000_000) == ("8bit", "4bit")
    assert entries["vicuna-33b"].fitting(card) == ()
    assert find_entry("tiny/model").fitting(card) is None
    assert find_entry("tiny/model").longest_context("4bit", card) is None


def test_a_cache_in_8_bits_has_more_fit() -> None:
    card = Memory("cuda", "card", 12_000_000_000, 9_500_000_000, 2)
    full, halved = find_entry("vicuna-13b-v1.5"), find_entry("vicuna-13b-v1.5", "8bit")
    assert (full.fitting(card), halved.fitting(card)) == ((), ("4bit",))
    assert full.spec.kv_bytes is not None
    needed, spared = full.memory_bytes("4bit", card), halved.memory_bytes("4bit", card)
    assert needed is not None
    assert spared is not None
    assert needed - spared == pytest.approx(full.context * full.spec.kv_bytes * (1 - (64 + 4) / 128), rel=0.1)


def test_a_longer_context_of_its_own_makes_no_model_too_large() -> None:
    entries = {entry.model: entry for entry in read_catalogue()}
    card = Memory("cuda", "card", 12_000_000_000, 12_000_000_000, 2)
    shorter, longer = entries["vicuna-13b"], entries["vicuna-13b-v1.5"]
    assert shorter.fitting(card) == longer.fitting(card) == ("4bit",)
    assert shorter.longest_context("4bit", card) == shorter.spec.context == 2048
    longest = longer.longest_context("4bit", card)
    assert longest is not None
    assert 2048 < longest < 4096
