"""Accelerators as their makers describe them, and how much of those figures a training step gets.
Nothing here was measured by us.

Rates are of dense products: data sheets print twice as much, for matrices of which half is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from training.stages.context import ConfigError

GIB, GB, TERA = 1 << 30, 1e9, 1e12
NODE_GPUS = 8

USABLE_MEMORY = (
    0.9  # the rest: CUDA's context, NCCL's buffers, what the allocator cannot join; our choice
)
# Of the bf16 peak, for a whole step: torchtitan trains Llama 3.1 8B with FSDP at 5,762 tokens/s on
# each of 8 H100, 6,667 compiled: 33 and 39 % of the peak (its
# benchmarks/llama3_h100_202412_torchtitan.md; H100 of 500 W). Ours is not compiled.
BF16_SHARE = 0.35
# Of the data sheet's rates of fp32 products, memory and links. Assumed: nobody measured it for this
# library.
SUSTAINED_SHARE = 0.75


@dataclass(frozen=True)
class Accelerator:
    """GB/s are of one direction. node: to the other GPUs of a machine of 8. network: of one GPU to
    other machines.
    """

    name: str
    memory_gib: float
    bf16_teraflops: float
    fp32_teraflops: float
    memory_gb_per_second: float
    node_gb_per_second: float
    network_gb_per_second: float
    source: str

    @property
    def usable_bytes(self) -> float:
        """What a stage may take."""
        return self.memory_gib * GIB * USABLE_MEMORY

    @property
    def narrow_rate(self) -> float:
        """bf16 operations a second in a step."""
        return self.bf16_teraflops * TERA * BF16_SHARE

    @property
    def wide_rate(self) -> float:
        """fp32 operations a second."""
        return self.fp32_teraflops * TERA * SUSTAINED_SHARE

    @property
    def memory_rate(self) -> float:
        """Bytes a second that decoding reads."""
        return self.memory_gb_per_second * GB * SUSTAINED_SHARE


_H100 = (
    "NVIDIA H100 data sheet, SXM5; DGX H100: NVLink 900 GB/s both ways, a 400 Gb/s adapter a GPU"
)
_H200 = "NVIDIA H200 data sheet, SXM5 (141 GB); network as DGX H200, 400 Gb/s a GPU"
_A100 = "NVIDIA A100 80GB data sheet, SXM4; DGX A100: NVLink 600 GB/s both ways, a 200 Gb/s adapter a GPU"
_L40S = "NVIDIA L40S data sheet, PCIe 4.0 x16, 64 GB/s both ways; network as AWS g6e.48xlarge, 400 Gb/s for 8"
_L4 = "NVIDIA L4 data sheet, PCIe 4.0 x16, 64 GB/s both ways; network as AWS g6.48xlarge, 100 Gb/s for 8"

# Memory as the driver reports it, rounded down (an H100 of "80 GB" has 81,559 MiB). Rates are the
# data sheets'.
ACCELERATORS: Mapping[str, Accelerator] = {
    accelerator.name: accelerator
    for accelerator in (
        Accelerator("h100", 79.0, 989.4, 66.9, 3350.0, 450.0, 50.0, _H100),
        Accelerator("h200", 140.0, 989.4, 66.9, 4800.0, 450.0, 50.0, _H200),
        Accelerator("a100-80", 79.0, 312.0, 19.5, 2039.0, 300.0, 25.0, _A100),
        Accelerator("l40s", 44.5, 362.05, 91.6, 864.0, 32.0, 6.25, _L40S),
        Accelerator("l4", 22.0, 121.0, 30.3, 300.0, 32.0, 1.5625, _L4),
    )
}


def accelerator_named(name: str) -> Accelerator:
    """Raises: ConfigError: we have no figures of it."""
    if name not in ACCELERATORS:
        known = ", ".join(ACCELERATORS)
        raise ConfigError(
            f"accelerator: {name!r} is not one of {known}",
            field="accelerator",
            reason="UNKNOWN",
            limit=known,
        )
    return ACCELERATORS[name]
