"""The KV cache: appending, keeping a path, forgetting, growing; whole and in 8 bits."""

from __future__ import annotations

import pytest
import torch

from medusa_chat.errors import UnsupportedModel
from medusa_chat.kernels.kv_rows import KVRows
from medusa_chat.model.cache import KVCache
from medusa_chat.records import KVPrecision

CPU = torch.device("cpu")
in_both_precisions = pytest.mark.parametrize("precision", ["full", "8bit"])


def rows(*values: int) -> torch.Tensor:
    """(B=1, kv_heads=2, N, head_dim=3) with each row filled with its value."""
    return torch.tensor(values, dtype=torch.float32)[None, None, :, None].expand(1, 2, -1, 3).clone()


def append(cache: KVCache, *values: int) -> list[torch.Tensor]:
    return [cache.update(rows(*values) + 100 * layer, -rows(*values), layer)[0] for layer in range(2)]


def held(cache: KVCache, layer: int) -> list[int]:
    """The committed keys, read by appending nothing."""
    key, _ = cache.update(rows(), rows(), layer)
    return key[0, 0, :, 0].round().int().tolist()


def new_cache(max_length: int = 4096, precision: KVPrecision = "full") -> KVCache:
    return KVCache(2, max_length, torch.float32, precision=precision)


@in_both_precisions
def test_keep_compacts_a_path_in_every_layer(precision: KVPrecision) -> None:
    cache = new_cache(precision=precision)
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


@in_both_precisions
def test_more_of_the_store_is_shown_as_it_fills_and_nothing_is_moved(precision: KVPrecision) -> None:
    cache = new_cache(precision=precision)
    append(cache, *range(1000))
    cache.keep(range(1000))
    place, taken = cache.store.numbers.data_ptr(), cache.num_bytes
    row = 3 * 4 if precision == "full" else 3 + 4
    assert (cache.capacity, taken) == (1024, 2 * 2 * 2 * 1024 * row)
    append(cache, *range(1000, 1040))
    cache.keep(range(40))
    assert (cache.capacity, cache.num_bytes) == (2048, 2 * taken)
    assert cache.store.numbers.data_ptr() == place
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


def rows_in_8_bits(values: torch.Tensor) -> KVRows:
    rows = KVRows.empty(values.shape, values.dtype, CPU, "8bit")
    rows.write(values)
    return rows


def test_a_row_in_8_bits_is_the_nearest_multiples_of_its_scale_whatever_its_size() -> None:
    values = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    values *= torch.logspace(-20, 20, 50)[:, None]
    rows = rows_in_8_bits(values)
    assert rows.scales is not None
    assert bool(((rows.read() - values).abs() <= 0.501 * rows.scales).all())
    torch.testing.assert_close(rows.read().abs().amax(-1), values.abs().amax(-1))
    for number in (0, 17, 49):
        alone = rows_in_8_bits(values[number : number + 1])
        assert torch.equal(alone.read()[0], rows.read()[number])
    assert rows_in_8_bits(torch.zeros(1, 64)).read().abs().max() == 0


def test_8_bits_and_a_scale_a_row_is_all_that_is_held() -> None:
    cache = KVCache(3, 1024, torch.bfloat16, "8bit")
    rows = torch.randn(1, 2, 5, 64).bfloat16()
    for part, wanted in zip(cache.update(rows, -rows, 0), (rows, -rows), strict=True):
        assert part.dtype == torch.bfloat16
        torch.testing.assert_close(part, wanted, rtol=1e-2, atol=2e-2)
    assert cache.num_bytes == 3 * 2 * 2 * 1024 * (64 + 4)
