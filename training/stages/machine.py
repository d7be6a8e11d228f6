"""Threads and number type from the machine.

bfloat16 must be earned: on a processor without it, it is many times slower. Sampling takes few threads: its products are
small, and OpenMP's barriers stall them as soon as another process wants a core. Measured on two busy cores with 16 rows x 640 x
2048: 31-76 GFLOP/s on one thread, 1-6 on two; with 1,280 rows two threads are never slower.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from training.stages.context import ConfigError, Machine

BF16_FLAGS = ("avx512_bf16", "amx_bf16")
WORTH_IT = 1.5  # below this the casts around the products eat the gain
SIZE = 768

Autocast = Callable[[], AbstractContextManager[object]]


def settle(machine: Machine) -> Autocast:
    """Set this process's threads, and return the context that every forward runs in."""
    threads = machine.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    if machine.dtype not in ("float32", "bfloat16", "auto"):
        raise ConfigError(f"dtype: {machine.dtype!r} is not one of float32, bfloat16, auto")
    narrow = machine.dtype == "bfloat16" or (machine.dtype == "auto" and bfloat16_pays())
    return lambda: torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow)


@contextmanager
def sampling_threads(machine: Machine) -> Iterator[None]:
    """Run the block with the threads that decoding takes."""
    before = torch.get_num_threads()
    torch.set_num_threads(machine.sampling_threads or max(1, before // 4))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def usage(tokens: int, started: float) -> dict[str, float]:
    """Speed of a step that began at `started` (time.perf_counter), and the most memory that this process has had so far."""
    seconds = max(time.perf_counter() - started, 1e-9)
    return {"tokens_per_second": tokens / seconds, "memory_bytes": peak_memory_bytes()}


def peak_memory_bytes() -> float:
    """The most that this process has had so far; of its accelerator where there is one."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0  # Linux counts in KiB


def bfloat16_pays() -> bool:
    """True where the processor has bf16 products and a timed one is at least WORTH_IT times as fast as fp32."""
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
