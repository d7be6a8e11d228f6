"""Threads, number type and device of a stage. The device becomes torch's default one, so what makes
a tensor need not know it; but models are made and loaded on the processor, and moved, whole or in
parts, by `parallelism.distribute`, or by whoever only asks them (`moved`).

bfloat16 must be earned: on a processor without it, it is many times slower. Sampling takes few
threads: its products are small, and OpenMP's barriers stall them as soon as another process wants a
core. Measured on two busy cores with 16 rows x 640 x 2048: 31-76 GFLOP/s on one thread, 1-6 on two;
with 1,280 rows two threads are never slower.
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

from training.stages.context import ConfigError, Machine

BF16_FLAGS = ("avx512_bf16", "amx_bf16")
WORTH_IT = 1.5  # below this the casts around the products eat the gain
SIZE = 768

PROCESSOR = "cpu"
UNFIT = {"mps": "has no fp64, in which losses are added up and tokens are drawn"}

Autocast = Callable[[], AbstractContextManager[object]]
Module = TypeVar("Module", bound=nn.Module)


def configure_device(machine: Machine) -> Autocast:
    """Set this process's threads and its device, and return the context that every forward runs in.

    Raises:
        ConfigError: a number type that is not known, or a device that is not there.
    """
    threads = machine.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    if machine.dtype not in ("float32", "bfloat16", "auto"):
        raise ConfigError(
            f"dtype: {machine.dtype!r} is not one of float32, bfloat16, auto",
            field="dtype",
            reason="UNKNOWN",
            limit="float32, bfloat16, auto",
        )
    device = use_device(machine.device)
    narrow = machine.dtype == "bfloat16" or (machine.dtype == "auto" and bfloat16_is_faster())
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16, enabled=narrow)


def use_device(name: str) -> torch.device:
    """Compute on this device from now on, in this thread.

    Raises:
        ConfigError: it is not there.
    """
    device = find_device(name)
    if device.type != PROCESSOR:
        torch.accelerator.set_device_index(device)
        torch.set_default_device(device)
    elif torch.get_default_device().type != PROCESSOR:
        torch.set_default_device(
            None
        )  # untouched, it costs nothing; set to the processor, something at each call
    return device


def find_device(name: str) -> torch.device:
    """The device of this name. Without a number it is the one that is current: Ray sets it, where
    workers share a machine.

    Raises:
        ConfigError: it is not there.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    usable = None if found is None or found.type in UNFIT else found
    seen = (
        PROCESSOR
        if usable is None
        else f"{PROCESSOR}, {usable.type} (0 to {torch.accelerator.device_count() - 1})"
    )
    if name == "auto":
        name = PROCESSOR if usable is None else usable.type
    try:
        asked = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"device: {name!r} is no device that torch knows; here are {seen}",
            field="device",
            reason="UNKNOWN",
            limit=seen,
        ) from error
    if asked.type == PROCESSOR:
        return torch.device(PROCESSOR)
    if asked.type in UNFIT:
        raise ConfigError(
            f"device: {name!r} {UNFIT[asked.type]}; here are {seen}",
            field="device",
            reason="UNSUPPORTED",
            limit=seen,
        )
    absent = ConfigError(
        f"device: {name!r} is not here; here are {seen}",
        field="device",
        reason="MISSING",
        limit=seen,
    )
    if usable is None or asked.type != usable.type:
        raise absent
    place = torch.accelerator.current_device_index() if asked.index is None else asked.index
    if not 0 <= place < torch.accelerator.device_count():
        raise absent
    return torch.device(asked.type, place)


def to_device(model: Module) -> Module:
    """The model, where this process computes."""
    device = torch.get_default_device()
    return model if device.type == PROCESSOR else model.to(device)


@contextmanager
def sampling_threads(machine: Machine) -> Iterator[None]:
    """Run the block with the threads that decoding takes."""
    before = torch.get_num_threads()
    torch.set_num_threads(machine.sampling_threads or max(1, before // 4))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def step_usage(tokens: int, started: float) -> dict[str, float]:
    """Speed of a step that began at `started` (time.perf_counter), and the most memory that this
    process has had so far.
    """
    seconds = max(time.perf_counter() - started, 1e-9)
    return {"tokens_per_second": tokens / seconds, "memory_bytes": peak_memory_bytes()}


def peak_memory_bytes() -> float:
    """The most that this process has had so far, of the device that it computes on."""
    device = torch.get_default_device()
    if device.type != PROCESSOR:
        return float(torch.get_device_module(device).max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0  # Linux counts in KiB


def bfloat16_is_faster() -> bool:
    """True where the device of this process has bf16 products; of a processor a timed one must be
    WORTH_IT times as fast as fp32.
    """
    device = torch.get_default_device()
    if device.type != PROCESSOR:
        return bool(torch.get_device_module(device).is_bf16_supported(including_emulation=False))
    if not any(flag in Path("/proc/cpuinfo").read_text() for flag in BF16_FLAGS):
        return False
    return _seconds(torch.float32) > WORTH_IT * _seconds(torch.bfloat16)


def _seconds(dtype: torch.dtype) -> float:
    left = torch.ones(SIZE, SIZE, dtype=dtype)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        left @ left
        times.append(time.perf_counter() - start)
    return min(times)
