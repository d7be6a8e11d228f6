"""The processes that Ray keeps for a run: how many workers, and what each may take. Ray is imported
where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.stages.context import ConfigError

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

ANY_NUMBER = -1
# Of each tensor where it lies: weights put together on a processor are sent from there, and a stage
# may be told to compute on it.
BACKEND_OF_GPUS = "cpu:gloo,cuda:nccl"
GPUS_HELP = (
    "GPUs that Ray keeps for each worker (default 0); without any, workers compute on processors"
)
# between looks whether more workers would fit: each resize is a restart from the last checkpoint
RESIZE_SECONDS = 300.0
WORKER_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",  # a waiting thread must not burn the core that a chat wants
}


@dataclass(frozen=True)
class Group:
    """workers 0: stages run in this process, without Ray. gpus_per_worker: without any, workers see
    no GPU and compute on processors.
    rollout_actors: processes that sample for policies, a processor each.

    fewest_workers: from so many on it begins, and goes on where a machine was lost; None: all or
        none. A worker that is taken away with
    notice (pre-empted) counts to no failure, and as many may be as there are.
    """

    workers: int = 0
    gpus_per_worker: int = 0
    rollout_actors: int = 0
    fewest_workers: int | None = None
    max_failures: int = 3  # of workers

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
                f"gpus_per_worker: {self.gpus_per_worker} without workers; a stage in this process takes the accelerator that is there",
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
                f"rollout_actors: {self.rollout_actors} without workers; actors are Ray's, as workers are",
                field="rollout_actors",
                reason="CONFLICT",
            )
        if self.fewest_workers is not None and not 1 <= self.fewest_workers <= self.workers:
            raise ConfigError(
                f"workers: {self.fewest_workers}..{self.workers} is no range that begins at 1 or more",
                field="workers",
                reason="OUT_OF_RANGE",
                limit=f"in [1, {self.workers}]",
            )
        if self.fewest_workers is not None and self.rollout_actors:
            # Its elastic policy counts whole machines, whatever else runs on them (source, 2.60).
            raise ConfigError(
                "rollout_actors: not with a range of workers, as Ray would wait for the actors' processors",
                field="rollout_actors",
                reason="UNSUPPORTED",
            )

    @property
    def sizes(self) -> range:
        """Numbers of workers that the run can have."""
        fewest = self.workers if self.fewest_workers is None else self.fewest_workers
        return range(max(1, fewest), max(1, self.workers) + 1)

    @property
    def processors(self) -> int:
        """That Ray must have."""
        return self.workers + self.rollout_actors


def trainer(
    group: Group,
    work: Callable[[dict[str, Any]], object],
    task: object,
    name: str,
    bookkeeping: Path,
) -> TorchTrainer:
    """What runs `work` on {"task": task} in each worker."""
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
            # A whole CPU each: workers of one CPU a pod then spread over the pods.
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
    """ "4" to (4, None), "1..4" to (4, 1): the most, and the fewest where they are a range. Raises:
    ValueError: it is neither.
    """
    fewest, dots, most = text.partition("..")
    return (int(most), int(fewest)) if dots else (int(text), None)
