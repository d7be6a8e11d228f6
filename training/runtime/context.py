"""Types that every stage receives in addition to its config, and the parts that all configs share.

Stages are independent of Ray. Checkpoints, progress and ranks come in through RunContext.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

from training.errors import ConfigError, unknown_choice
from training.runtime.ranges import Choices, Count, CountOrZero, Rule, check_fields
from training.runtime.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from training.rl.samplers import Samplers

DTYPES = ("float32", "bfloat16", "auto")  # of the products in a stage
AUTO_DEVICE = "auto"
DEVICE_TYPES = (AUTO_DEVICE, "cpu", "cuda", "xpu")  # those with numbers may have an index
INDEX = re.compile(r":\d{1,2}")
UNSUPPORTED_DEVICES = {
    "mps": "has no float64, which sums of losses and sampling need; cpu is supported",
    "gpu": "is cuda (NVIDIA and AMD) or xpu (Intel)",
}
DEVICE_HELP = (
    "cpu, cuda, cuda:1, xpu, or auto: the accelerator that torch finds, otherwise the CPU "
    "(default: auto)"
)


class StoppedError(KeyboardInterrupt):
    """The run was asked to stop and ended after a step whose state is saved.

    The same command resumes from this state. As with Ctrl-C, this is not a failure. `stop_signal`
    is the signal that asked for the stop.

    Args:
        stage: the stage that ended.
        step: the last step; None if all steps were done.
    """

    stop_signal = signal.SIGTERM

    def __init__(self, text: str = "", *, stage: str = "", step: int | None = None) -> None:
        super().__init__(text)
        self.stage = stage
        self.step = step


@dataclass(frozen=True)
class Lineage:
    """Origin of a stage's output, as recorded in its manifest."""

    version: str  # id of the artifact = name of its directory
    snapshot: str = ""  # id of the data snapshot; empty: no snapshot
    snapshot_sha256: str = ""
    code_commit: str = ""
    licence: str = ""


class DeviceName(Rule):
    """Rule of a field with the name of a device."""

    def check_one(self, name: str, value: str) -> None:
        """Check the name of a device as `check_device` does."""
        check_device(value, name)


@dataclass(frozen=True)
class Machine:
    """Resources of the machine that a stage uses. The module docstring of machine.py gives the
    reasons.

    Attributes:
        threads: number of CPU threads, at least 0; 0: all cores available to this process
        sampling_threads: number of CPU threads while sampling, at least 0; 0: a quarter of threads,
            at least one
        dtype: float32, bfloat16 (autocast), or auto: bfloat16 if the accelerator supports bfloat16
            or the CPU is at least 1.5 times as fast with bfloat16
        device: cpu, cuda, cuda:1, xpu, or auto: the accelerator that torch finds, otherwise the CPU
    """

    threads: CountOrZero = 0
    sampling_threads: CountOrZero = 0
    dtype: Annotated[str, Choices(DTYPES)] = "float32"
    device: Annotated[str, DeviceName()] = AUTO_DEVICE

    def __post_init__(self) -> None:
        check_fields(self)


def check_device(name: str, field: str = "device") -> None:
    """Check the name of a device; only torch knows whether the machine has the device.

    Args:
        field: field of the error.

    Raises:
        ConfigError: the name is not one of DEVICE_TYPES, except `auto` with an index such as `:1`.
    """
    kind, colon, index = name.partition(":")
    if kind in UNSUPPORTED_DEVICES:
        raise ConfigError(
            f"{field}: {name!r} {UNSUPPORTED_DEVICES[kind]}",
            field=field,
            reason="UNSUPPORTED",
            limit=", ".join(DEVICE_TYPES),
        )
    is_indexed = kind != AUTO_DEVICE and INDEX.fullmatch(colon + index)
    if kind not in DEVICE_TYPES or (colon and not is_indexed):
        raise unknown_choice(field, name, DEVICE_TYPES, "or one with an index, such as cuda:1")


@dataclass(frozen=True)
class Parallelism:
    """Distribution of a model over workers.

    Remaining workers train replicas.

    Attributes:
        shard: workers that share weights, gradients and optimizer state of each layer, at least 1
        tensor: workers that compute each layer together, at least 1
        pipeline: workers that have some of the layers each, at least 1; only pre-training and SFT
    """

    shard: Count = 1
    tensor: Count = 1
    pipeline: Count = 1

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def splits_model(self) -> bool:
        """Return True if a worker holds less than the whole model."""
        return self.parts > 1

    @property
    def parts(self) -> int:
        """Return the number of workers that hold one model together."""
        return self.pipeline * self.shard * self.tensor


@dataclass(frozen=True)
class Progress:
    """Metrics of one step of a stage."""

    stage: str
    step: int
    total_steps: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Sample:
    """Text that the model of a stage generated at a step for a prompt, with its score if scored."""

    stage: str
    step: int
    prompt: str
    text: str
    score: float | None = None


class Checkpoints(Protocol):
    """Training states of one run by step. A checkpoint with a manifest is complete."""

    def save(self, step: int, write: Callable[[Path], None], on_notice: bool = False) -> None:
        """Call `write` with an empty directory and keep the result as the state after `step` steps.

        Every rank calls this method.

        Args:
            on_notice: the run was asked to stop, so this checkpoint is not one of the schedule. No
                scheduled checkpoint is removed for its sake, and the next scheduled one replaces
                this one.
        """

    def latest(self, before: int | None = None) -> Path | None:
        """Return the complete checkpoint with the highest step, or None.

        With `before`, only scheduled checkpoints below that step count.
        """


def require_divisible(counts: Mapping[str, int], ranks: Ranks) -> None:
    """Check that the workers can share the rows of a step evenly.

    Otherwise ranks would take different numbers of steps, or make different numbers of forward
    passes of a split model, and wait for each other until the timeout.

    Args:
        counts: rows per step, by the name of the config field.

    Raises:
        ConfigError: a count is not divisible by a possible number of workers.
    """
    for name, count in counts.items():
        for size in ranks.data_sizes:
            if count % size:
                suffix = "" if size == ranks.data_size else " that may remain"
                raise ConfigError(
                    f"{name}: {count} is not a multiple of the {size} workers{suffix}",
                    field=name,
                    reason="OUT_OF_RANGE",
                    limit=f"a multiple of {size}",
                )


@dataclass(frozen=True)
class RunContext:
    """Environment of a stage.

    `samplers` generate rollouts for a policy in training; None means that the stage samples itself.
    `stop_requested` returns True once this worker was asked to stop soon.
    """

    checkpoints: Checkpoints
    progress: Callable[[Progress], None]
    ranks: Ranks = ALONE
    samples: Callable[[Sample], None] = lambda sample: None
    samplers: Samplers | None = None
    stop_requested: Callable[[], bool] = lambda: False

    def stop_if_requested(
        self, stage: str, step: int, write: Callable[[Path], None], saved: bool
    ) -> None:
        """Stop all workers after the same step if any of them was asked to stop.

        Every worker calls this method at the end of every step.

        Args:
            write: as in Checkpoints.save.
            saved: the state after this step is already saved.

        Raises:
            StoppedError: a worker was asked to stop; the state is saved.
        """
        if self.ranks.any(self.stop_requested()):
            if not saved:
                self.checkpoints.save(step, write, on_notice=True)
            raise StoppedError(
                f"{stage}: stopped after step {step}, whose state is saved", stage=stage, step=step
            )
