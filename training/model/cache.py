"""Key-value cache with buffers of fixed capacity; decoding appends in place without copying.

Buffer shapes follow the first append, so a worker with a part of the heads caches only that part.

Shapes: B batch, T new tokens, S tokens so far, K key-value heads, E head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValueCache:
    """Key and value buffers per layer.

    `length` grows once per forward, after all layers have appended.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity  # tokens per row
        self.length = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def append(self, layer: int, keys_BKTE: Tensor, values_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values and return all of this layer, [B, K, S, E] each.

        Raises:
            ValueError: the capacity is exceeded.
        """
        end = self.length + keys_BKTE.shape[2]
        if end > self.capacity:
            raise ValueError(f"cache: {end} tokens do not fit its capacity of {self.capacity}")
        if layer == len(self._keys):
            self._keys.append(self._room(keys_BKTE))
            self._values.append(self._room(values_BKTE))
        keys, values = self._keys[layer], self._values[layer]
        keys[:, :, self.length : end] = keys_BKTE
        values[:, :, self.length : end] = values_BKTE
        return keys[:, :, :end], values[:, :, :end]

    def take(self, rows_B: Tensor) -> KeyValueCache:
        """Return a new cache with copies of these rows, in this order; rows may be repeated."""
        taken = KeyValueCache(self.capacity)
        taken.length = self.length
        taken._keys = [self._rows_of(buffer, rows_B) for buffer in self._keys]
        taken._values = [self._rows_of(buffer, rows_B) for buffer in self._values]
        return taken

    def _room(self, first_BKTE: Tensor) -> Tensor:
        batch, heads, _, size = first_BKTE.shape
        return first_BKTE.new_zeros(batch, heads, self.capacity, size)

    def _rows_of(self, buffer: Tensor, rows_B: Tensor) -> Tensor:
        # Copy filled columns only; the rest of the capacity stays zero.
        taken = torch.zeros_like(buffer[:1]).repeat(len(rows_B), 1, 1, 1)
        taken[:, :, : self.length] = buffer[:, :, : self.length].index_select(0, rows_B)
        return taken
