"""How long a step takes: arithmetic, memory traffic of decoding, and what workers exchange. An estimate from peaks and the shares of them
that are reached; right within a third, which is enough to choose machines by.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.model.config import ModelConfig
from training.planning.accelerators import REACHED_BANDWIDTH, REACHED_FLOPS, Accelerator
from training.planning.memory import BF16, FP32, size_of


@dataclass(frozen=True)
class Passes:
    """Forward and backward passes over tokens in one step, counted for one decoder. through_frozen: backward passes that give no gradient of
    the decoder's own weights (adapters)."""

    forward: int = 0
    backward: int = 0
    through_frozen: int = 0


@dataclass(frozen=True)
class Spread:
    """How the accelerators are laid out; `copies` read different rows beside `shard`."""

    accelerator: Accelerator
    copies: int
    shard: int
    tensor: int

    @property
    def count(self) -> int:
        return self.copies * self.shard * self.tensor


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step. Exchange of shards hides behind arithmetic, that of split layers does not."""

    arithmetic: float
    shards: float
    layers: float
    decoding: float

    @property
    def total(self) -> float:
        return max(self.arithmetic, self.shards) + self.layers + self.decoding


def flops_per_token(config: ModelConfig, columns: int) -> float:
    """Of a forward and a backward pass: 6 N, and 12 layers x width x columns for attention (PaLM, arXiv 2204.02311, appendix B)."""
    size = size_of(config)
    attention = 12 * config.num_layers * config.num_heads * config.head_dim * columns
    return 6 * (size.layers + config.vocab_size * config.hidden_size) + attention


def step_time(
    config: ModelConfig, passes: Passes, columns: int, forwards: int, decoded: int, rows_decoded: int, spread: Spread
) -> StepTime:
    """Seconds of a step.

    Args:
        columns: tokens in a row.
        forwards: forward passes of one worker, each of which gathers shards.
        decoded: tokens sampled a response; rows_decoded: responses sampled at once by one worker.
    """
    device, size = spread.accelerator, size_of(config)
    third = flops_per_token(config, columns) / 3  # a forward pass is a third of both
    flops = third * (passes.forward + 2 * passes.backward + passes.through_frozen)
    arithmetic = flops / (spread.count * device.flops * REACHED_FLOPS)
    held = size.total / spread.tensor
    # Gathered for the forward and for the backward pass in bf16, gradients scattered in fp32.
    gathers = forwards * (2 * BF16 + FP32) * held * (spread.shard - 1) / spread.shard if spread.shard > 1 else 0.0
    inside = spread.shard * spread.tensor <= device.per_node
    shards = gathers / (REACHED_BANDWIDTH * (device.neighbour_bandwidth if inside else device.node_bandwidth))
    tokens = (passes.forward + passes.backward) / (spread.copies * spread.shard)
    sums = 2 * config.num_layers * BF16 * config.hidden_size * tokens * 2 * (spread.tensor - 1) / spread.tensor
    layers = sums / (REACHED_BANDWIDTH * device.neighbour_bandwidth)
    return StepTime(arithmetic, shards, layers, decoding_seconds(config, columns, decoded, rows_decoded, spread))


def decoding_seconds(config: ModelConfig, columns: int, decoded: int, rows: int, spread: Spread) -> float:
    """Sampling reads all weights and the cache once a token: it is as slow as memory, until rows are many."""
    if decoded == 0:
        return 0.0
    device, size = spread.accelerator, size_of(config)
    cached = 2 * config.num_layers * config.num_kv_heads * config.head_dim * rows * columns
    reading = BF16 * (size.total + cached) / spread.tensor / (REACHED_BANDWIDTH * device.memory_bandwidth)
    arithmetic = flops_per_token(config, columns) / 3 * rows / spread.tensor / (device.flops * REACHED_FLOPS)
    return decoded * max(reading, arithmetic)
