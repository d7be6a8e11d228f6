"""Planned memory of a pre-training compared with the memory of this machine, before texts are read.

The plan is that of `training/planning`, for one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from training.errors import ConfigError
from training.model.config import parse_config
from training.planning.accelerators import CPU, GIB, available_bytes
from training.planning.hardware import found_hardware
from training.planning.layout import Layout
from training.planning.memory import Phase, peak
from training.planning.stage import DataSize
from training.planning.work import work_of
from training.runtime.machine import find_device
from training.stages.pretrain_config import PretrainConfig


def check_memory(config: PretrainConfig) -> None:
    """Check that a step fits into the memory of the device on which this process trains.

    Raises:
        ConfigError: a step needs more memory; names the largest part and fields with which it
            would fit.
    """
    if find_device(config.machine.device).type == CPU:
        usable: float = available_bytes()
    else:
        usable = found_hardware(config.machine.device, 0, 0).accelerator.usable_bytes
    needed = planned_peak(config)
    if needed.bytes <= usable:
        return
    fitting = next(
        (name for name, one in _smaller(config) if planned_peak(one).bytes <= usable), ""
    )
    largest = needed.largest
    raise ConfigError(
        f"shape: a step needs {needed.bytes / GIB:.1f} GiB, and {usable / GIB:.1f} GiB of memory "
        f"are available; the largest part: {largest.name}, {largest.bytes / GIB:.1f} GiB"
        f"{fitting and f'; it fits with {fitting}'}",
        field="shape",
        reason="TOO_LARGE",
        limit=f"{usable / GIB:.1f} GiB",
    )


def planned_peak(config: PretrainConfig) -> Phase:
    """Return the phase of a step that needs the most memory."""
    layout = Layout(1, config.parallelism)
    return peak(work_of(config, DataSize(), parse_config(config.model_json), layout), layout)


def _smaller(config: PretrainConfig) -> Iterator[tuple[str, PretrainConfig]]:
    """Yield configs with equal results that need less memory, and how to set them."""
    rows = config.microbatch_rows
    while rows > 1:
        rows //= 2
        yield f"--set microbatch_rows={rows}", replace(config, microbatch_rows=rows)
    yield (
        "--set microbatch_rows=1 --set checkpoint_activations=true",
        replace(config, microbatch_rows=1, checkpoint_activations=True),
    )
