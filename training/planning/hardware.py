"""Hardware of a run: the accelerators that its workers train on, named or found on this machine."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from training.errors import ConfigError
from training.planning.accelerators import (
    ACCELERATORS,
    CPU,
    GIB,
    Accelerator,
    accelerator_named,
    available_bytes,
    cpu,
)
from training.runtime.machine import bfloat16_is_faster, find_device


@dataclass(frozen=True)
class Hardware:
    """Accelerators of a run.

    Attributes:
        count: one per worker; on CPUs the cores of a worker together are one accelerator.
        fewest: number of workers from which a run with an elastic number of workers continues.
        narrow: stages compute in bf16.
    """

    accelerator: Accelerator
    count: int = 1
    fewest: int | None = None
    narrow: bool = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(
                f"gpus: {self.count}, at least 1",
                field="gpus",
                reason="OUT_OF_RANGE",
                limit="at least 1",
            )

    @property
    def sizes(self) -> range:
        """Return the possible numbers of workers."""
        return range(self.count if self.fewest is None else self.fewest, self.count + 1)

    @property
    def row_multiple(self) -> int:
        """Return the number that all batches must be a multiple of."""
        return math.lcm(*self.sizes)

    @property
    def most_parts(self) -> int:
        """Return the number that the parts of a model must divide."""
        return math.gcd(*self.sizes)

    def __str__(self) -> str:
        accelerator = self.accelerator
        kind = accelerator.name
        if accelerator.is_cpu:
            kind = f"CPU with {accelerator.memory_gib:.3g} GiB"
        return f"{self.count} x {kind}"


def hardware_from(fields: Mapping[str, Any]) -> Hardware:
    """Return the hardware from its fields, as `config.json` of a run has them."""
    return Hardware(**{**fields, "accelerator": Accelerator(**fields["accelerator"])})


def named_hardware(
    name: str, count: int = 1, cores: int | None = None, memory_gib: float | None = None
) -> Hardware:
    """Return hardware by the name of its accelerator.

    Args:
        count: number of GPUs, or of workers on CPUs.
        cores, memory_gib: of a CPU worker; None: as on this machine, of which each worker has an
            equal share.

    Raises:
        ConfigError: the name is unknown, or cores or memory are given for a GPU.
    """
    if name != CPU:
        if cores is not None or memory_gib is not None:
            raise ConfigError(
                f"cores, memory-gib: only for cpu, and the accelerator is {name}",
                field="cores" if cores is not None else "memory-gib",
                reason="CONFLICT",
            )
        return Hardware(accelerator_named(name), count)
    for field, value in (("cores", cores), ("memory-gib", memory_gib)):
        if value is not None and not value > 0:
            raise ConfigError(
                f"{field}: {value} is not above 0",
                field=field,
                reason="OUT_OF_RANGE",
                limit="above 0",
            )
    shared = max(1, count)
    found = cpu(
        cores or max(1, len(os.sched_getaffinity(0)) // shared),
        memory_gib or round(available_bytes() / GIB / shared, 2),
    )
    return Hardware(found, count, narrow=cores is None and bfloat16_is_faster())


def found_hardware(device: str, workers: int, gpus_per_worker: int) -> Hardware:
    """Return the hardware on which stages will run.

    Args:
        device: as in `Machine.device`.
        workers: of Ray; 0: stages run in this process.
        gpus_per_worker: with 0, workers of Ray see no GPU.

    Raises:
        ConfigError: workers have GPUs on other machines, whose name must be given.
    """
    count, here = max(1, workers), torch.cuda.is_available()
    if gpus_per_worker and not here:
        raise ConfigError(
            "accelerator: workers have GPUs, but this process sees none; name them, for example "
            "--accelerator h100",
            field="accelerator",
            reason="MISSING",
            limit=", ".join(ACCELERATORS),
        )
    sees_gpu = here and (workers == 0 or gpus_per_worker > 0)
    if not sees_gpu or find_device(device).type == CPU:
        return named_hardware(CPU, count)
    return Hardware(_gpu_here(), count)


def _gpu_here() -> Accelerator:
    """Return this machine's GPU: the rates of its row in ACCELERATORS, the memory of its driver.

    A GPU without a row gets the rates of the slowest row, so its times are upper bounds.
    """
    properties = torch.cuda.get_device_properties(0)
    memory_gib = properties.total_memory / GIB
    words = properties.name.lower().replace("-", " ").split()
    for accelerator in ACCELERATORS.values():
        # "a100-80" and "rtx-4090" by the word with digits: "NVIDIA A100-SXM4-80GB".
        model = next(word for word in accelerator.name.split("-") if any(map(str.isdigit, word)))
        if model in words:
            return replace(accelerator, memory_gib=memory_gib)
    slowest = min(ACCELERATORS.values(), key=lambda one: one.bf16_teraflops)
    return replace(
        slowest,
        name=properties.name.lower().replace(" ", "-"),
        memory_gib=memory_gib,
        source=f"memory by its driver; not listed, so with the rates of {slowest.name}",
    )
