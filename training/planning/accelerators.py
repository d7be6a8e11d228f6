"""Accelerators as specified by their makers, and the fraction of these figures that a step reaches.

Only the figures of CPUs were measured by this project.

Rates are for dense matrix products; data sheets also print twice the rate, for matrices with half
of the values zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.errors import unknown_choice

MIB, GIB, GB, TERA = 1 << 20, 1 << 30, 1e9, 1e12
CPU = "cpu"
NODE_GPUS = 8

# An assumption; the rest is used by CUDA's context, NCCL's buffers and memory fragmentation.
USABLE_MEMORY = 0.9
# Fraction of the bf16 peak over a whole step: torchtitan trains Llama 3.1 8B with FSDP at 5,762
# tokens/s on each of 8 H100, 6,667 compiled: 33 and 39 % of the peak (its
# benchmarks/llama3_h100_202412_torchtitan.md; H100 of 500 W). Our stages are not compiled.
BF16_SHARE = 0.35
# Fraction of the data sheet's rates of fp32 products, memory and links. An assumption without
# measurements for this library.
SUSTAINED_SHARE = 0.75


@dataclass(frozen=True)
class Accelerator:
    """Figures of an accelerator.

    GB/s are in one direction.

    Attributes:
        node_gb_per_second: to the other GPUs in a machine of 8.
        network_gb_per_second: of one GPU to other machines.
        bf16_share, sustained_share: fractions of the rates that a step reaches.
        reserved_gib: memory of the process itself.
    """

    name: str
    memory_gib: float
    bf16_teraflops: float
    fp32_teraflops: float
    memory_gb_per_second: float
    node_gb_per_second: float
    network_gb_per_second: float
    source: str
    bf16_share: float = BF16_SHARE
    sustained_share: float = SUSTAINED_SHARE
    reserved_gib: float = 0.0

    @property
    def is_cpu(self) -> bool:
        return self.name == CPU

    @property
    def usable_bytes(self) -> float:
        """Return the memory available to a stage."""
        return (self.memory_gib * USABLE_MEMORY - self.reserved_gib) * GIB

    @property
    def narrow_rate(self) -> float:
        """Return the bf16 operations per second in a step."""
        return self.bf16_teraflops * TERA * self.bf16_share

    @property
    def wide_rate(self) -> float:
        """Return the fp32 operations per second in a step."""
        return self.fp32_teraflops * TERA * self.sustained_share

    @property
    def memory_rate(self) -> float:
        """Return the bytes per second that decoding reads."""
        return self.memory_gb_per_second * GB * self.sustained_share


_H100 = (
    "NVIDIA H100 data sheet, SXM5; DGX H100: NVLink 900 GB/s both ways, a 400 Gb/s adapter a GPU"
)
_H200 = "NVIDIA H200 data sheet, SXM5 (141 GB); network as DGX H200, 400 Gb/s a GPU"
_A100 = (
    "NVIDIA A100 80GB data sheet, SXM4; DGX A100: NVLink 600 GB/s both ways, "
    "a 200 Gb/s adapter a GPU"
)
_L40S = (
    "NVIDIA L40S data sheet, PCIe 4.0 x16, 64 GB/s both ways; "
    "network as AWS g6e.48xlarge, 400 Gb/s for 8"
)
_L4 = (
    "NVIDIA L4 data sheet, PCIe 4.0 x16, 64 GB/s both ways; "
    "network as AWS g6.48xlarge, 100 Gb/s for 8"
)
_A10 = (
    "NVIDIA A10 data sheet, PCIe 4.0 x16, 64 GB/s both ways; "
    "network as AWS g5.48xlarge, 100 Gb/s for 8"
)
_RTX_4090 = (
    "NVIDIA Ada GPU architecture (bf16 with fp32 sums), PCIe 4.0 x16, 64 GB/s both ways; "
    "network assumed, 10 Gb/s for 8"
)

# Memory as reported by the driver, rounded down (an H100 of "80 GB" has 81,559 MiB). Rates are
# those of the data sheets.
ACCELERATORS: Mapping[str, Accelerator] = {
    accelerator.name: accelerator
    for accelerator in (
        Accelerator("h100", 79.0, 989.4, 66.9, 3350.0, 450.0, 50.0, _H100),
        Accelerator("h200", 140.0, 989.4, 66.9, 4800.0, 450.0, 50.0, _H200),
        Accelerator("a100-80", 79.0, 312.0, 19.5, 2039.0, 300.0, 25.0, _A100),
        Accelerator("l40s", 44.5, 362.05, 91.6, 864.0, 32.0, 6.25, _L40S),
        Accelerator("rtx-4090", 23.9, 165.2, 82.6, 1008.0, 32.0, 0.15625, _RTX_4090),
        Accelerator("a10", 22.4, 125.0, 31.2, 600.0, 32.0, 1.5625, _A10),
        Accelerator("l4", 22.0, 121.0, 30.3, 300.0, 32.0, 1.5625, _L4),
    )
}


# Products of 512 x 1024 x 4096 and reads of 0.5 GiB on one of two shared cores of an AMD EPYC with
# avx512_bf16, 2026-11-29; fp32 is the middle of 31 to 76 (training/runtime/machine.py), 20 were
# measured beside other work.
CORE_BF16_GIGAFLOPS, CORE_FP32_GIGAFLOPS, CORE_GB_PER_SECOND = 118.0, 50.0, 4.3
# Limits of the control group of this process, version 2 and 1.
MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
# Python with torch and a tokenizer: 0.53 GiB measured after the imports.
PROCESS_GIB = 0.7


def cpu(cores: int, memory_gib: float) -> Accelerator:
    """Return the cores of a machine as one accelerator.

    Decoding uses a quarter of the cores (training/runtime/machine.py).
    """
    return Accelerator(
        CPU,
        memory_gib,
        cores * CORE_BF16_GIGAFLOPS / 1000,
        cores * CORE_FP32_GIGAFLOPS / 1000,
        max(1, cores // 4) * CORE_GB_PER_SECOND,
        1.0,
        1.0,
        f"{cores} core{'s' if cores > 1 else ''} with {memory_gib:g} GiB, at rates of a core that "
        "were measured on two shared cores of an AMD EPYC; 1 GB/s between processes assumed",
        bf16_share=1.0,
        sustained_share=1.0,
        reserved_gib=PROCESS_GIB,
    )


def available_bytes() -> int:
    """Return the memory that this process can still get: of the machine and its control group."""
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            available = int(rest.split()[0]) * 1024
    for file in MEMORY_LIMITS:
        if file.exists() and (limit := file.read_text().strip()).isdigit():
            return min(available, int(limit))
    return available


# Names of cards by NVIDIA's driver, for measured shares of the peak. Other variants of a card
# (PCIe, NVL) have other rates; plans take the nearest row for them (hardware.py).
DEVICES = {
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
    "NVIDIA A100-SXM4-80GB": "a100-80",
    "NVIDIA L40S": "l40s",
    "NVIDIA GeForce RTX 4090": "rtx-4090",
    "NVIDIA A10": "a10",
    "NVIDIA L4": "l4",
}


def accelerator_of_device(device: str) -> Accelerator | None:
    """Return the accelerator with this name of the driver, or None if its figures are unknown."""
    return ACCELERATORS.get(DEVICES.get(device, ""))


def accelerator_named(name: str) -> Accelerator:
    """Return the accelerator with this name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in ACCELERATORS:
        raise unknown_choice("accelerator", name, ACCELERATORS, "or cpu for --recipe auto")
    return ACCELERATORS[name]
