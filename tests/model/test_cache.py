"""The KV cache: appending, keeping a path, forgetting, growing."""

from __future__ import annotations

import pytest
import torch

from medusa_chat.errors import UnsupportedModel
from medusa_chat.model.cache import KVCache


def rows(*values: int) -> torch.Tensor:
    """(B=1, kv_heads=2, N, head_dim=3) with each row filled with its value."""
    return torch.tensor(values, dtype=torch.float32)[None, None, :, None].expand(1, 2, -1, 3).clone()


def append(cache: KVCache, *values: int) -> list[torch.Tensor]:
    return [cache.update(rows(*values) + 100 * layer, -rows(*values), layer)[0] for layer in range(2)]


def held(cache: KVCache, layer: int) -> list[int]:
    """The committed keys, read by appending nothing."""
    key, _ = cache.update(rows(), rows(), layer)
    return key[0, 0, :, 0].int().tolist()


def new_cache(max_length: int = 4096) -> KVCache:
    return KVCache(2, max_length, torch.float32)


def test_keep_compacts_a_path_in_every_layer() -> None:
    cache = new_cache()
    append(cache, 1, 2, 3)
    cache.keep(range(3))
    append(cache, 10, 11, 12, 13, 14)
    cache.keep([0, 2, 4])
    assert cache.length == 6
    assert held(cache, 0) == [1, 2, 3, 10, 12, 14]
    assert held(cache, 1) == [101, 102, 103, 110, 112, 114]


def test_what_is_not_kept_is_overwritten() -> None:
    cache = new_cache()
    append(cache, 1, 2, 3)
    cache.keep([0])
    keys = append(cache, 7)
    assert keys[0][0, 0, :, 0].tolist() == [1, 7]


def test_truncate_forgets_the_end_and_never_grows() -> None:
    cache = new_cache()
    append(cache, 1, 2, 3)
    cache.keep(range(3))
    cache.truncate(1)
    assert held(cache, 0) == [1]
    cache.truncate(5)
    assert cache.length == 1


def test_growing_keeps_what_is_there() -> None:
    cache = new_cache()
    append(cache, *range(500))
    cache.keep(range(500))
    assert cache.capacity == 512
    append(cache, *range(500, 540))
    cache.keep(range(40))
    assert cache.capacity == 1024
    assert held(cache, 1) == [100 + i for i in range(540)]


def test_no_more_is_allocated_than_the_context_needs() -> None:
    cache = new_cache(max_length=600)
    append(cache, *range(550))
    assert cache.capacity == 600


def test_layers_of_different_shapes_are_refused() -> None:
    cache = new_cache()
    cache.update(rows(1), rows(1), 0)
    with pytest.raises(UnsupportedModel, match="KV heads of different shapes"):
        cache.update(torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 3), 1)
