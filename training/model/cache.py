"""Keys and values of the tokens so far, preallocated: decoding appends in place and never copies what is there.

Shapes: B batch, T new tokens, S tokens so far, K key-value heads, E head dimension.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from training.model.config import ModelConfig


class KeyValueCache:
    """One buffer a layer. `length` moves once per forward, after every layer has appended."""

    def __init__(
        self, config: ModelConfig, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.num_layers, batch, config.num_kv_heads, capacity, config.head_dim)
        self._keys = torch.zeros(shape, dtype=dtype, device=device)
        self._values = torch.zeros(shape, dtype=dtype, device=device)
        self.capacity = capacity
        self.length = 0

    def append(self, layer: int, keys_BKTE: Tensor, values_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of this layer including the new ones, [B, K, S, E] each."""
        end = self.length + keys_BKTE.shape[2]
        if end > self.capacity:
            raise ValueError(f"cache: {end} tokens do not fit its capacity of {self.capacity}")
        self._keys[layer, :, :, self.length : end] = keys_BKTE
        self._values[layer, :, :, self.length : end] = values_BKTE
        return self._keys[layer, :, :, :end], self._values[layer, :, :, :end]

    def take(self, rows_B: Tensor) -> KeyValueCache:
        """A cache of these rows, in this order; one may be there twice. Copies what is filled."""
        taken = copy.copy(self)
        taken._keys, taken._values = self._rows_of(self._keys, rows_B), self._rows_of(self._values, rows_B)
        return taken

    def _rows_of(self, buffer: Tensor, rows_B: Tensor) -> Tensor:
        layers, _, heads, capacity, size = buffer.shape
        taken = buffer.new_zeros(layers, len(rows_B), heads, capacity, size)
        taken[:, :, :, : self.length] = buffer[:, :, :, : self.length].index_select(1, rows_B)
        return taken
