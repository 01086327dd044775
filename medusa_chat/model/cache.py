"""The KV cache: rows of all layers in one tensor, so that keeping a path is one gather and one write."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medusa_chat.errors import UnsupportedModel
from medusa_chat.kernels.kv_rows import KVRows
from medusa_chat.model.giving_back import give_back_unused
from medusa_chat.records import KVPrecision

_FEWEST_ROWS = 1024  # shown


class KVCache:
    """Keys and values of `length` committed tokens, for B sequences in lockstep.

    A forward appends its N rows behind them through `update`, layer by layer; `keep` then commits some of
    them and the rest are overwritten by the next forward. Fits transformers' `past_key_values` by its verbs.

    All of its memory is taken at the first row, so that what was planned is what is taken, and no longer
    conversation ends for want of room to copy a store into a larger one: while a 7B model's grew from 4,096
    rows to 8,192, both stood side by side, 2 and 4 GB. On a CPU the system gives pages as they are written.
    Shown is a part of it, which grows by doubling: kernels and graphs take longer over more.
    """

    def __init__(
        self, num_layers: int, max_length: int, dtype: torch.dtype, precision: KVPrecision = "full"
    ) -> None:
        """max_length: rows. dtype: that rows are computed in, and held in unless in 8 bits."""
        self.dtype = dtype
        self.precision = precision
        self.num_layers = num_layers
        self.max_length = max_length
        self.length = 0
        self._whole: KVRows | None = None  # (layers, 2, B, kv_heads, max_length, head_dim)
        self._store: KVRows | None = None  # its first `capacity` rows

    @property
    def capacity(self) -> int:
        """Rows shown."""
        return 0 if self._store is None else self._store.shape[4]

    @property
    def store(self) -> KVRows:
        """(layers, 2, B, kv_heads, capacity, head_dim), once something was reserved."""
        assert self._store is not None
        return self._store

    @property
    def num_bytes(self) -> int:
        """Memory taken; on a CPU, of the rows shown."""
        on_cpu = self._whole is not None and self._whole.device.type == "cpu"
        taken = self._store if on_cpu else self._whole
        return 0 if taken is None else taken.num_bytes

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
            source = torch.tensor(rows, device=self._store.device) + self.length
            for part in self._store.parts:
                part[..., self.length : self.length + num_kept, :] = part.index_select(4, source)
        self.length += num_kept

    def truncate(self, length: int) -> None:
        """Forgets all rows from `length` on."""
        self.length = min(self.length, length)

    def shrink(self, max_length: int) -> None:
        """Takes so many rows from now on, and keeps those that are committed, which must be no more. By way
        of the host's memory: there is none on the device for two stores.
        """
        self.max_length = max_length
        if self._whole is None or self._whole.device.type == "cpu":
            return  # rows that nobody writes take nothing
        kept, device = self._whole[..., : self.length, :].cpu(), self._whole.device
        self._whole = self._store = None
        give_back_unused()
        shape = (*kept.shape[:4], max_length, kept.shape[5])
        self._whole = KVRows.empty(shape, self.dtype, device, self.precision)
        self._whole[..., : self.length, :].copy_(kept)

    def _reserve(
        self, rows: int, batch: int, num_kv_heads: int, head_dim: int, device: torch.device
    ) -> KVRows:
        if self._whole is None or self._whole.shape[4] < rows:
            shape = self.num_layers, 2, batch, num_kv_heads, max(self.max_length, rows), head_dim
            grown = KVRows.empty(shape, self.dtype, device, self.precision)
            if self._whole is not None:
                # Rows beyond max_length, as no conversation has. All of those before: a step under way on the
                # device may have filled more than the host knows of.
                grown[..., : self._whole.shape[4], :].copy_(self._whole)
            self._whole, self._store = grown, None
        if self._store is None or self._store.shape[4] < rows:
            self._store = self._whole[..., : max(_FEWEST_ROWS, 1 << (rows - 1).bit_length()), :]
        return self._store
