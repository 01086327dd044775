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


def test_more_of_the_store_is_shown_as_it_fills_and_nothing_is_moved() -> None:
    cache = new_cache()
    append(cache, *range(1000))
    cache.keep(range(1000))
    place, taken = cache.store.data_ptr(), cache.num_bytes
    assert (cache.capacity, taken) == (1024, 2 * 2 * 2 * 1024 * 3 * 4)
    append(cache, *range(1000, 1040))
    cache.keep(range(40))
    assert (cache.capacity, cache.num_bytes) == (2048, 2 * taken)
    assert cache.store.data_ptr() == place
    assert held(cache, 1) == [100 + i for i in range(1040)]


def test_no_more_is_taken_than_the_context_needs() -> None:
    cache = new_cache(max_length=600)
    append(cache, *range(550))
    assert cache.capacity == 600
    cache.keep(range(550))
    append(cache, *range(550, 604))  # beyond it, as a prompt filled up to whole fours of rows may go
    cache.keep(range(54))
    assert cache.capacity == 604
    assert held(cache, 1) == [100 + i for i in range(604)]


def test_a_shrunk_cache_keeps_its_rows_and_goes_on() -> None:
    cache = new_cache()
    append(cache, *range(1100))
    cache.keep(range(1100))
    cache.shrink(1536)
    append(cache, *range(1100, 1200))
    cache.keep(range(100))
    assert held(cache, 1) == [100 + i for i in range(1200)]


def test_layers_of_different_shapes_are_refused() -> None:
    cache = new_cache()
    cache.update(rows(1), rows(1), 0)
    with pytest.raises(UnsupportedModel, match="KV heads of different shapes"):
        cache.update(torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 3), 1)
