"""What every stage is given beside its config, and the parts that all configs share.

A stage knows no Ray: checkpoints, progress and ranks come in through RunContext.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from training.errors import ConfigError as ConfigError
from training.optim.ranks import ALONE, Ranks
from training.ranges import CountOrZero, check_ranges

if TYPE_CHECKING:
    from training.rl.samplers import Samplers

DEVICE_HELP = "cpu, cuda, cuda:1, xpu, or auto: the accelerator that torch sees, else the processor (default auto)"


class StoppedError(KeyboardInterrupt):
    """The run was told to end and has ended its step, whose state is kept: who runs the same again
    goes on there. As with Ctrl-C, nothing is wrong. stop_signal: the signal.

    Args:
        stage: the stage that ended.
        step: the step after which it ended; None: all its steps were done.
    """

    stop_signal = signal.SIGTERM

    def __init__(self, text: str = "", *, stage: str = "", step: int | None = None) -> None:
        super().__init__(text)
        self.stage = stage
        self.step = step


@dataclass(frozen=True)
class Lineage:
    """What a stage's manifest says about where its output comes from."""

    version: str  # id of the artifact = name of its directory
    snapshot: str = ""  # id of the data snapshot; empty: no snapshot
    snapshot_sha256: str = ""
    code_commit: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Machine:
    """How much of the machine a stage takes (machine.py says why).

    Attributes:
        threads: of the processor, at least 0; 0: every core that this process may use
        sampling_threads: while it samples, at least 0; 0: a quarter of threads, at least one
        dtype: float32, bfloat16 (autocast), or auto: bfloat16 where the accelerator has it or the
            processor is 1.5 times as fast with it
        device: cpu, cuda, cuda:1, xpu, or auto: the accelerator that torch sees, else the processor
    """

    threads: CountOrZero = 0
    sampling_threads: CountOrZero = 0
    dtype: str = "float32"
    device: str = "auto"

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Progress:
    """One step of a stage. Metrics are the stage's figures at this step."""

    stage: str
    step: int
    total_steps: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Sample:
    """What the model of a stage writes at this step when it is given the beginning; and its score,
    where it was judged.
    """

    stage: str
    step: int
    prompt: str
    text: str
    score: float | None = None


class Checkpoints(Protocol):
    """Training state of one run, by step. A checkpoint is complete when its manifest is there."""

    def save(self, step: int, write: Callable[[Path], None], on_notice: bool = False) -> None:
        """Let `write` fill an empty directory, then keep it as the state after `step` steps. Every
        rank calls this.

        Args:
            on_notice: it is not one of those that the config asks for: it takes no other's place,
                and goes with the next of them.
        """

    def latest(self, before: int | None = None) -> Path | None:
        """The complete checkpoint with the highest step, or None; with `before` that of those which
        the config asked for, below this step.
        """


def _not_kept(_: Sample) -> None:
    """Samples are for whoever asks for them."""


def _never() -> bool:
    """Nobody tells."""
    return False


def require_divisible(counts: Mapping[str, int], ranks: Ranks) -> None:
    """Ranks that took different numbers of steps, or made different numbers of forwards of a split
    model, would wait for each other for ever.

    Args:
        counts: of a step's rows, by the fields that say how many.

    Raises:
        ConfigError: one that the workers cannot share evenly.
    """
    for name, count in counts.items():
        for size in ranks.data_sizes:
            if count % size:
                may = "" if size == ranks.data_size else " that may be left"
                raise ConfigError(
                    f"{name}: {count} is not a multiple of the {size} workers{may}",
                    field=name,
                    reason="OUT_OF_RANGE",
                    limit=f"a multiple of {size}",
                )


@dataclass(frozen=True)
class RunContext:
    """Where a stage runs. samplers: who samples for a policy that learns; None: itself.
    stop_requested: whether this worker has been told that it must end soon.
    """

    checkpoints: Checkpoints
    progress: Callable[[Progress], None]
    ranks: Ranks = ALONE
    samples: Callable[[Sample], None] = _not_kept
    samplers: Samplers | None = None
    stop_requested: Callable[[], bool] = _never

    def stop_if_requested(
        self, stage: str, step: int, write: Callable[[Path], None], kept: bool
    ) -> None:
        """At the end of each step, on every worker: one that is told tells all, and all keep the
        same step.

        Args:
            write: as of Checkpoints.save.
            kept: whether the state after this step is kept already.

        Raises:
            StoppedError: some worker was told, and the state is kept.
        """
        if self.ranks.any(self.stop_requested()):
            if not kept:
                self.checkpoints.save(step, write, on_notice=True)
            raise StoppedError(
                f"{stage}: stopped after step {step}, which is kept", stage=stage, step=step
            )
