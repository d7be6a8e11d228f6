"""Processes of a run on Ray: number of workers, and their resources.

Ray is imported in functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.errors import ConfigError

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

ANY_NUMBER = -1
# Backend by device of the tensor: weights assembled on the CPU are sent from there, and a stage can
# be configured to compute on the CPU.
BACKEND_OF_GPUS = "cpu:gloo,cuda:nccl"
GPUS_HELP = "GPUs that Ray reserves for each worker (default 0); with 0, workers compute on the CPU"
# Interval of checks for more workers; each resize is a restart from the last checkpoint.
RESIZE_SECONDS = 300.0
WORKER_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads must not use CPU that requests of users need
}


@dataclass(frozen=True)
class Group:
    """Number of processes of a run, and their resources.

    Attributes:
        workers: 0 runs stages in this process, without Ray.
        gpus_per_worker: with 0, workers see no GPU and compute on the CPU.
        rollout_actors: processes that sample for policies, with one CPU each.
        fewest_workers: number of workers from which the run starts, and continues after the loss of
            a machine; None: all workers are needed. Preemptions with notice do not count as
            failures, and their number is unlimited.
    """

    workers: int = 0
    gpus_per_worker: int = 0
    rollout_actors: int = 0
    fewest_workers: int | None = None
    max_failures: int = 3  # failures of workers

    def __post_init__(self) -> None:
        if self.gpus_per_worker < 0:
            raise ConfigError(
                f"gpus_per_worker: {self.gpus_per_worker} is below 0",
                field="gpus_per_worker",
                reason="OUT_OF_RANGE",
                limit="at least 0",
            )
        if self.gpus_per_worker and not self.workers:
            raise ConfigError(
                f"gpus_per_worker: {self.gpus_per_worker} needs workers; a stage in this process "
                "uses the accelerator of the machine",
                field="gpus_per_worker",
                reason="CONFLICT",
            )
        if self.rollout_actors < 0:
            raise ConfigError(
                f"rollout_actors: {self.rollout_actors} is below 0",
                field="rollout_actors",
                reason="OUT_OF_RANGE",
                limit="at least 0",
            )
        if self.rollout_actors and not self.workers:
            raise ConfigError(
                f"rollout_actors: {self.rollout_actors} needs workers, because actors run on Ray",
                field="rollout_actors",
                reason="CONFLICT",
            )
        if self.fewest_workers is not None and not 1 <= self.fewest_workers <= self.workers:
            raise ConfigError(
                f"workers: {self.fewest_workers}..{self.workers} must be a range that starts at 1 "
                "or more",
                field="workers",
                reason="OUT_OF_RANGE",
                limit=f"in [1, {self.workers}]",
            )
        if self.fewest_workers is not None and self.rollout_actors:
            # Ray's elastic policy counts whole machines, including processes other than workers
            # (source, 2.60).
            raise ConfigError(
                "rollout_actors: not supported with a range of workers, because Ray would wait for "
                "the CPUs of the actors",
                field="rollout_actors",
                reason="UNSUPPORTED",
            )

    @property
    def sizes(self) -> range:
        """Return the possible numbers of workers."""
        fewest = self.workers if self.fewest_workers is None else self.fewest_workers
        return range(max(1, fewest), max(1, self.workers) + 1)

    @property
    def processors(self) -> int:
        """Return the CPUs that the run needs."""
        return self.workers + self.rollout_actors


def trainer(
    group: Group,
    work: Callable[[dict[str, Any]], object],
    task: object,
    name: str,
    bookkeeping: Path,
) -> TorchTrainer:
    """Return a trainer that calls `work` with {"task": task} in each worker."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpus = {"GPU": group.gpus_per_worker} if group.gpus_per_worker else {}
    return TorchTrainer(
        work,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend=BACKEND_OF_GPUS if group.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=group.workers
            if group.fewest_workers is None
            else (group.fewest_workers, group.workers),
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
            use_gpu=group.gpus_per_worker > 0,
            # A whole CPU per worker spreads workers over pods with one CPU each.
            resources_per_worker={"CPU": 1, **gpus},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(bookkeeping),
            failure_config=FailureConfig(
                max_failures=group.max_failures, max_preemption_failures=ANY_NUMBER
            ),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    )


def parse_workers(text: str) -> tuple[int, int | None]:
    """Parse "4" to (4, None) and "1..4" to (4, 1): most workers, and fewest for a range.

    Raises:
        ValueError: the text has another format.
    """
    fewest, dots, most = text.partition("..")
    return (int(most), int(fewest)) if dots else (int(text), None)
