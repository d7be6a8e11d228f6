"""Accelerators as their makers' data sheets have them, and how much of that training reaches."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True)
class Accelerator:
    """One device. Speeds are peaks: dense bfloat16 in FLOP/s; bytes/s of its memory, to its neighbours in a node (one direction), and to
    other nodes."""

    name: str
    memory_bytes: int
    flops: float
    memory_bandwidth: float
    neighbour_bandwidth: float
    node_bandwidth: float
    per_node: int = 8


# NVIDIA's data sheets; NVLink and PCIe figures there are of both directions together. Other nodes: 400 Gbit/s a device, as DGX systems have.
ACCELERATORS = {
    "h100": Accelerator("h100", 80 * GIB, 989e12, 3.35e12, 450e9, 50e9),
    "h200": Accelerator("h200", 141 * GIB, 989e12, 4.8e12, 450e9, 50e9),
    "a100": Accelerator("a100", 80 * GIB, 312e12, 2.04e12, 300e9, 25e9),
    "l40s": Accelerator("l40s", 48 * GIB, 362e12, 0.864e12, 32e9, 25e9),
    "l4": Accelerator("l4", 24 * GIB, 121e12, 0.3e12, 32e9, 12.5e9),
}

# Of the peak. Compute: torchtitan's 8B on eight H100 without compile, 5,762 tokens/s each of 8,192 columns (reference: 33 to 39 %).
REACHED_FLOPS = 0.35
REACHED_BANDWIDTH = 0.6
# Of the memory, for what no formula counts: the driver's context, the allocator's gaps, buffers of collectives.
USABLE_MEMORY = 0.9
