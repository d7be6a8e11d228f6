"""Memory of one accelerator in one stage: weights, gradients and optimizer, what a layer needs while it is whole, activations, logits.

Weights are kept in fp32 and computed with in bf16, as mixed precision does. Shares go by training/parallelism.py: layers are split by
tensor, everything by shard.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training.model.config import ModelConfig
from training.model.transformer import Decoder

FP32, BF16 = 4, 2
ADAM_SLOTS = 2


@dataclass(frozen=True)
class Size:
    """Parameters of a decoder: of one layer, of all layers, and of what is outside of them (embedding, head, last norm)."""

    layer: int
    layers: int
    outside: int

    @property
    def total(self) -> int:
        return self.layers + self.outside


@dataclass(frozen=True)
class Load:
    """What a stage keeps and does at once. trained and frozen: how many decoders of this size; adapter: parameters of adapters that are
    trained beside them. rows x columns: tokens in one forward. recomputed: activations are computed again in the backward pass."""

    trained: int
    frozen: int
    adapter: int
    rows: int
    columns: int
    recomputed: bool
    cache_rows: int = 0  # responses sampled at once, each of `columns`

    @property
    def tokens(self) -> int:
        """Of one forward."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Memory:
    """Bytes of one accelerator, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int
    logits: int
    cache: int

    @property
    def total(self) -> int:
        """The peak: sampling's cache and training's activations are never there together."""
        training = self.gathered + self.activations + self.logits
        return self.weights + self.gradients + self.optimizer + max(training, self.cache + self.gathered)


def size_of(config: ModelConfig) -> Size:
    """Counted on a decoder without storage."""
    with torch.device("meta"):
        decoder = Decoder(config)
    layer = sum(parameter.numel() for parameter in decoder.model.layers[0].parameters())
    total = sum(parameter.numel() for parameter in decoder.parameters())
    return Size(layer, layer * config.num_layers, total - layer * config.num_layers)


def estimate(config: ModelConfig, load: Load, shard: int, tensor: int) -> Memory:
    """Bytes of one accelerator; `shard` and `tensor` as in Parallelism."""
    size = size_of(config)
    held = (size.layers // tensor + size.outside) // shard
    adapter = load.adapter // shard
    trained = load.trained * held + adapter
    sharded = shard > 1
    # Two layers are whole at a time, one computed with and the next on its way; embedding and head for the whole forward.
    gathered = BF16 * (2 * size.layer // tensor + size.outside) if sharded else 0
    layer = layer_activation_bytes(config, tensor) * load.tokens
    kept = BF16 * config.hidden_size * load.tokens * config.num_layers
    activations = kept + layer if load.recomputed else layer * config.num_layers
    return Memory(
        weights=FP32 * (trained + load.frozen * held),
        gradients=FP32 * trained,
        optimizer=FP32 * ADAM_SLOTS * trained,
        gathered=gathered,
        activations=activations,
        logits=2 * FP32 * load.tokens * config.vocab_size,
        cache=BF16
        * 2
        * config.num_layers
        * config.num_kv_heads
        // tensor
        * config.head_dim
        * load.cache_rows
        * load.columns,
    )


def layer_activation_bytes(config: ModelConfig, tensor: int) -> int:
    """Bytes that one layer keeps of a token for its backward pass; attention's own matrix is never kept (flash attention).

    Norms keep their input and its normalised form in fp32; projections their inputs; rotary embedding, attention and the gated
    product theirs, in bf16 (after Korthikanti et al., arXiv 2205.05198, section 4, for this layer).
    """
    hidden, wide = config.hidden_size, config.intermediate_size // tensor
    queries, keys = config.num_heads * config.head_dim // tensor, config.num_kv_heads * config.head_dim // tensor
    norms = 4 if config.sandwich_norms else 2
    normed = norms * hidden * (2 * FP32 + BF16)
    attention = BF16 * (2 * queries + 2 * keys)
    rotated = FP32 * (queries + keys)
    gated = BF16 * 4 * wide
    return normed + attention + rotated + gated
