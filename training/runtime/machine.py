"""Threads, number type and device of a stage.

The device becomes torch's default device, so code that creates tensors need not know the device.
Models are created and loaded on the CPU. `parallelism.distribute` moves them, whole or in parts;
code for inference uses `to_device`.

bfloat16 is measured before use: CPUs without bfloat16 instructions are many times slower with it.
Sampling uses few threads: its matrix products are small, and OpenMP's barriers stall as soon as
another process wants a core. Measured on two busy cores with 16 rows x 640 x 2048: 31-76 GFLOP/s on
one thread, 1-6 on two; with 1,280 rows two threads are never slower.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from training.errors import ConfigError
from training.runtime.context import AUTO_DEVICE, UNSUPPORTED_DEVICES, Machine, check_device

BF16_FLAGS = ("avx512_bf16", "amx_bf16")
MIN_SPEEDUP = 1.5  # below this the casts around the products cost more than they gain
PROBE_SIZE = 768  # rows and columns of the matrices for the measurement

CPU = "cpu"

Autocast = Callable[[], AbstractContextManager[object]]
Module = TypeVar("Module", bound=nn.Module)


def configure_device(machine: Machine) -> Autocast:
    """Set the threads and the device of this process; return the autocast context for forward
    passes.

    Raises:
        ConfigError: the device is not available.
    """
    threads = machine.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    device = use_device(machine.device)
    bfloat16 = machine.dtype == "bfloat16" or (machine.dtype == "auto" and bfloat16_is_faster())
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)


def use_device(name: str) -> torch.device:
    """Use this device for all further computation in this thread.

    Raises:
        ConfigError: the device is not available.
    """
    device = find_device(name)
    if device.type != CPU:
        torch.accelerator.set_device_index(device)
        torch.set_default_device(device)
    elif torch.get_default_device().type != CPU:
        # A default device, even the CPU, costs time at each call; None costs nothing.
        torch.set_default_device(None)
    return device


def find_device(name: str) -> torch.device:
    """Return the device of this name.

    A name without an index means the current device: Ray selects one where workers share a machine.

    Raises:
        ConfigError: as `check_device`, or the device is not available.
    """
    check_device(name)
    found = torch.accelerator.current_accelerator(check_available=True)
    usable = None if found is None or found.type in UNSUPPORTED_DEVICES else found
    seen = (
        CPU
        if usable is None
        else f"{CPU}, {usable.type} (0 to {torch.accelerator.device_count() - 1})"
    )
    if name == AUTO_DEVICE:
        name = CPU if usable is None else usable.type
    requested = torch.device(name)
    if requested.type == CPU:
        return torch.device(CPU)
    absent = ConfigError(
        f"device: {name!r} is not available; available: {seen}",
        field="device",
        reason="MISSING",
        limit=seen,
    )
    if usable is None or requested.type != usable.type:
        raise absent
    index = torch.accelerator.current_device_index() if requested.index is None else requested.index
    if not 0 <= index < torch.accelerator.device_count():
        raise absent
    return torch.device(requested.type, index)


def to_device(model: Module) -> Module:
    """Move the model to the device of this process."""
    device = torch.get_default_device()
    return model if device.type == CPU else model.to(device)


def stores_narrow(autocast: Autocast) -> bool:
    """Return True if frozen matrices are stored in bfloat16: on accelerators that compute in it.

    On CPUs they stay in fp32, because sampling in bfloat16 would change measured figures.
    """
    device = torch.get_default_device().type
    with autocast():
        return device != CPU and torch.is_autocast_enabled(device)


@contextmanager
def sampling_threads(machine: Machine) -> Iterator[None]:
    """Run the block with the number of threads for decoding."""
    before = torch.get_num_threads()
    torch.set_num_threads(machine.sampling_threads or max(1, before // 4))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def step_usage(tokens: int, started: float) -> dict[str, float]:
    """Return the throughput of a step since `started` (perf_counter), and the peak memory."""
    seconds = max(time.perf_counter() - started, 1e-9)
    return {"tokens_per_second": tokens / seconds, "memory_bytes": peak_memory_bytes()}


def peak_memory_bytes() -> float:
    """Return the peak memory of this process so far, on the device that computes."""
    device = torch.get_default_device()
    if device.type != CPU:
        return float(torch.get_device_module(device).max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0  # Linux counts in KiB


def bfloat16_is_faster() -> bool:
    """Return True if the device has bfloat16 products.

    On a CPU a measured bfloat16 product must be at least MIN_SPEEDUP times as fast as one in
    float32.
    """
    device = torch.get_default_device()
    if device.type != CPU:
        return bool(torch.get_device_module(device).is_bf16_supported(including_emulation=False))
    if not any(flag in Path("/proc/cpuinfo").read_text() for flag in BF16_FLAGS):
        return False
    return _product_seconds(torch.float32) > MIN_SPEEDUP * _product_seconds(torch.bfloat16)


def _product_seconds(dtype: torch.dtype) -> float:
    left = torch.ones(PROBE_SIZE, PROBE_SIZE, dtype=dtype)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        left @ left
        times.append(time.perf_counter() - start)
    return min(times)
