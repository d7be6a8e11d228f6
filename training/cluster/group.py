"""Processes of a run on Ray: the cluster, the number of workers, and their resources.

The cluster is an existing one (RAY_ADDRESS), or a new one on this machine. Ray is imported in
functions (see runner.py).
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.cluster.notice import restored_handlers
from training.errors import ConfigError

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer


BOOKKEEPING = "ray"  # folder of Ray next to those of the stages
START_TRIES, START_TOO_SLOW = 3, "timed out"
# Set on an existing cluster, by Ray itself for the programs of its jobs.
ADDRESS = "RAY_ADDRESS"
ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # avoids thousands of log lines
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # with 2 s, reports block for seconds
    # with 5 s, a sixth of a pod's usual notice is lost
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    # Workers without a GPU see none and compute on the CPU.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}
# For a cluster that is started here.
OWN_ENVIRONMENT = {
    # An additional process; this machine is not preempted with notice.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Other accounts of this machine reach the cluster on loopback. With a token, Ray itself turns
    # authentication on; RAY_AUTH_MODE has no effect here, because Ray has read the mode on import.
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
}
QUIET = {"log_to_driver": False, "configure_logging": False}
ANY_NUMBER = -1
# Backend by device of the tensor: weights assembled on the CPU are sent from there, and a stage can
# be configured to compute on the CPU.
BACKEND_OF_GPUS = "cpu:gloo,cuda:nccl"
GPUS_HELP = (
    "GPUs that Ray reserves for each worker (default: 0); with 0, workers compute on the CPU"
)
# Interval of checks for more workers; each resize is a restart from the last checkpoint.
RESIZE_SECONDS = 300.0
WORKER_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads must not use CPU that requests of users need
}


@contextmanager
def ray_cluster(processors: int) -> Iterator[None]:
    """Provide Ray inside the block: the cluster of RAY_ADDRESS, or a new one on this machine.

    Does nothing if `processors` is 0 or Ray is already initialised.

    Starting Ray takes tens of seconds on two busy cores, so use one block for several stages.
    """
    if processors == 0:
        yield
        return
    require_ray(processors)
    import ray

    if ray.is_initialized():
        yield
        return
    there = os.environ.get(ADDRESS)
    for name, value in {**ENVIRONMENT, **({} if there else OWN_ENVIRONMENT)}.items():
        os.environ.setdefault(name, value)
    # Ray's handlers exit with another status, and would remain after Ray's shutdown.
    with restored_handlers():
        if there:
            # The environment is passed to processes on other machines too.
            ray.init(runtime_env={"env_vars": ENVIRONMENT}, **QUIET)
        else:
            # Ray starts an idle process for each of its CPUs, and a pod sees all CPUs of its node.
            _start(processors + 1)
    try:
        yield
    finally:
        ray.shutdown()


def _start(num_cpus: int) -> None:
    """Start a local cluster with several tries.

    Ray limits a start to 30 seconds by constants, and a longer wait does not help. Starts that hung
    were children that gRPC had stopped in the fork (`training/__init__.py`): 4 of 28 with busy
    channels, and 0 of 28 without gRPC's fork support.
    """
    import ray

    print("starting Ray, which takes up to a minute", file=sys.stderr, flush=True)
    # Its only lines are warnings about the mode of authentication, which OWN_ENVIRONMENT selects.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(
        logging.ERROR
    )
    for tries_left in reversed(range(START_TRIES)):
        try:
            # "local", because any `ray start` on this machine leaves an address file for others.
            ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **QUIET)
        except Exception as error:  # Ray raises no specific class
            ray.shutdown()
            if not tries_left or START_TOO_SLOW not in str(error).casefold():
                raise
        else:
            return


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


def require_ray(workers: int) -> None:
    """Check that Ray is installed if there are workers.

    Raises:
        ConfigError: the package is missing.
    """
    if workers and find_spec("ray") is None:
        raise ConfigError(
            f"workers: {workers} needs the package ray, which is not installed: run python3 "
            "infra/install/environment.py training, or set --workers 0 to train in this process",
            field="workers",
            reason="MISSING",
            limit="0 without ray",
        )


def gpus_for_each(workers: int) -> int:
    """Return the GPUs that Ray reserves for each worker where nothing is configured.

    1 if Ray starts on this machine and the machine has a GPU for each worker. 0 on an existing
    cluster (RAY_ADDRESS), whose GPUs this machine does not know.
    """
    import torch

    if not workers or os.environ.get(ADDRESS):
        return 0
    return int(torch.cuda.device_count() >= workers)


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
