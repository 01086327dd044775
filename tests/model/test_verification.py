"""One forward over a tree gives each node what its path gives alone: on a tiny model and on the real one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medusa_chat.decoding.draft import Candidates, draft_static
from medusa_chat.decoding.tree import Tree, best_tree, published_paths
from medusa_chat.errors import UnsupportedModel
from medusa_chat.model.base import BaseModel
from medusa_chat.model.loading import check_trees_work, load_base_model
from medusa_chat.records import DType, KVPrecision, Quantization
from tests.tiny import tiny_llama

TREE = best_tree(published_paths(4), 32)


def path_to(tree: Tree, node: int) -> list[int]:
    path = []
    while node >= 0:
        path.append(node)
        node = tree.parents[node]
    return path[::-1]


@torch.inference_mode()
def logits_by_tree_and_by_path(
    base: BaseModel, prompt_length: int, tree: Tree, kv_cache: KVPrecision = "full"
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, V) twice: verified together, and each path decoded token by token with the same cache."""
    generator = torch.Generator().manual_seed(prompt_length)
    prompt = torch.randint(3, base.vocab_size, (1, prompt_length), generator=generator)
    guesses = torch.randint(3, base.vocab_size, (tree.depth, tree.num_ranks), generator=generator)
    draft = draft_static(Candidates(tree.paths), torch.tensor(5), guesses)
    ids = draft.ids
    cache = base.new_cache(kv_cache=kv_cache)
    base.prefill(prompt, cache)
    together = base.logits(base.forward(ids[None], cache, prompt_length + draft.depths, draft.visible)[0])
    alone = []
    for node in range(len(tree)):
        for step in path_to(tree, node):
            logits = base.logits(base.forward(ids[None, step : step + 1], cache)[0])
            cache.keep([0])
        cache.truncate(prompt_length)
        alone.append(logits[0])
    return together, torch.stack(alone)


@pytest.mark.parametrize("prompt_length", [1, 5, 126, 200])
def test_tree_equals_paths_on_a_tiny_model(prompt_length: int) -> None:
    together, alone = logits_by_tree_and_by_path(tiny_llama(), prompt_length, TREE)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_grouped_attention_equals_transformers_own() -> None:
    ids = torch.randint(3, 64, (2, 150), generator=torch.Generator().manual_seed(0))
    ours, eager = tiny_llama(), tiny_llama(attention="eager")
    outputs = [base.forward(ids, base.new_cache()) for base in (ours, eager)]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    reference = eager.causal_lm(ids).logits  # transformers alone: its own mask, no cache of ours
    torch.testing.assert_close(ours.logits(outputs[0]), reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("quantization", "dtype", "kv_cache"),
    [
        ("none", "float32", "full"),
        ("none", "bfloat16", "full"),
        ("none", "bfloat16", "8bit"),
        ("4bit", "bfloat16", "full"),
        ("8bit", "bfloat16", "full"),
    ],
)
def test_tree_equals_paths_to_the_bit_on_the_real_model(
    default_model: Path, quantization: Quantization, dtype: DType, kv_cache: KVPrecision
) -> None:
    """On the CPU drafting changes not one bit; behind a prompt of 126 the tree crosses a chunk."""
    base = load_base_model(default_model, quantization, torch.device("cpu"), getattr(torch, dtype))
    tree = best_tree(published_paths(4), 12)
    together, alone = logits_by_tree_and_by_path(base, 126, tree, kv_cache)
    assert torch.equal(together, alone)


def test_prefill_in_chunks_equals_one_forward() -> None:
    base = tiny_llama(context=2048)
    ids = torch.randint(3, 64, (1, 1100), generator=torch.Generator().manual_seed(0))
    whole = base.forward(ids, base.new_cache())[:, -1]
    chunked = base.prefill(ids, base.new_cache())
    torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-5)


def test_a_model_that_ignores_the_mask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_llama(attention="eager")
    check_trees_work(base)
    monkeypatch.setattr(base, "_mask", lambda positions, visible, num_cached: None)
    with pytest.raises(UnsupportedModel, match="can't verify a draft tree"):
        check_trees_work(base)
