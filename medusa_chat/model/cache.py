"""The KV cache: rows of all layers in one tensor, so that keeping a path is one gather and one write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from medusa_chat.errors import UnsupportedModel
from medusa_chat.kernels.kv_rows import KVRows
from medusa_chat.records import KVPrecision

Growth = Literal["blocks", "doubling", "whole"]
_SPARE = 128  # rows of a draft tree beyond the longest conversation
_BLOCK = 512  # rows; a block of a 7B model is 256 MB, of the default model 12 MB


class KVCache:
    """Keys and values of `length` committed tokens, for B sequences in lockstep.

    A forward appends its N rows behind them through `update`, layer by layer; `keep` then commits some of
    them and the rest are overwritten by the next forward. Fits transformers' `past_key_values` by its verbs.
    """

    def __init__(
        self,
        num_layers: int,
        max_length: int,
        dtype: torch.dtype,
        *,
        growth: Growth = "blocks",
        precision: KVPrecision = "full",
    ) -> None:
        """dtype: that rows are computed in, and held in unless in 8 bits. growth: by blocks; by doubling, so
        that what holds the store's address must seldom be renewed; or whole at once, so that there are never
        an old and a new store side by side.
        """
        self.dtype = dtype
        self._growth = growth
        self._precision = precision
        self.num_layers = num_layers
        self.max_length = max_length
        self.length = 0
        self._store: KVRows | None = None  # (layers, 2, B, kv_heads, capacity, head_dim)

    @property
    def capacity(self) -> int:
        """Rows allocated."""
        return 0 if self._store is None else self._store.shape[4]

    @property
    def store(self) -> KVRows:
        """(layers, 2, B, kv_heads, capacity, head_dim), once something was reserved."""
        assert self._store is not None
        return self._store

    @property
    def num_bytes(self) -> int:
        """Memory allocated."""
        return 0 if self._store is None else self._store.num_bytes

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes (B, kv_heads, N, head_dim) behind the committed rows of one layer.

        Returns keys and values (B, kv_heads, length + N, head_dim), views unless they are in 8 bits.
        """
        end = self.length + key.shape[2]
        store = self._reserve(end, key.shape[0], key.shape[1], key.shape[3], key.device)
        if store.shape[3] != key.shape[1] or store.shape[5] != key.shape[3]:
            raise UnsupportedModel(
                "This model's layers have KV heads of different shapes; that is not supported."
            )
        keys, values = store[layer_idx, 0, :, :, :end], store[layer_idx, 1, :, :, :end]
        keys[:, :, self.length :].write(key)
        values[:, :, self.length :].write(value)
        return keys.read(), values.read()

    def reserve(
        self, num_rows: int, num_kv_heads: int, head_dim: int, device: torch.device
    ) -> tuple[KVRows, KVRows]:
        """For one sequence and all layers: a view (layers, 2, kv_heads, length + num_rows, head_dim) of keys
        and values, and one of the last num_rows of them, which the caller writes as `update` would.
        """
        end = self.length + num_rows
        rows = self._reserve(end, 1, num_kv_heads, head_dim, device)[:, :, 0, :, :end]
        return rows, rows[..., self.length :, :]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Committed rows (transformers' name for `length`)."""
        return self.length

    def keep(self, rows: Sequence[int]) -> None:
        """Commits these rows of the last forward, in this order; rows count from 0."""
        num_kept = len(rows)
        if self._store is not None and list(rows) != list(range(num_kept)):
            source = torch.tensor(rows, device=self._store.numbers.device) + self.length
            for part in self._store.parts:
                part[..., self.length : self.length + num_kept, :] = part.index_select(4, source)
        self.length += num_kept

    def truncate(self, length: int) -> None:
        """Forgets all rows from `length` on."""
        self.length = min(self.length, length)

    def _reserve(
        self, rows: int, batch: int, num_kv_heads: int, head_dim: int, device: torch.device
    ) -> KVRows:
        if self._store is None or self._store.shape[4] < rows:
            spare = _SPARE if self._growth == "doubling" else 0
            capacity = min(self._rounded(rows), max(self.max_length, rows) + spare)
            shape = self.num_layers, 2, batch, num_kv_heads, capacity, head_dim
            grown = KVRows.empty(shape, self.dtype, device, self._precision)
            if self._store is not None:
                # All rows: a step under way on the device may have filled more than the host knows of.
                grown[..., : self._store.shape[4], :].copy_(self._store)
            self._store = grown
        return self._store

    def _rounded(self, rows: int) -> int:
        match self._growth:
            case "whole":
                return max(self.max_length, rows)
            case "doubling":
                return max(1024, 1 << (rows - 1).bit_length())
            case "blocks":
                return -(-rows // _BLOCK) * _BLOCK
