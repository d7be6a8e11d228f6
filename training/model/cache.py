"""Keys and values of the tokens so far, preallocated: decoding appends in place and never copies what is there.

Shapes: B batch, T new tokens, S tokens so far, K key-value heads, E head dimension.
"""

from __future__ import annotations

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
