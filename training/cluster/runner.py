"""Run a stage under Ray Train V2, or in this process. Either way its checkpoints and progress lie under storage/run_name.

A checkpoint counts when its manifest agrees with its files, not when Ray has registered it: Ray's controller polls, and a
worker killed in between would start from zero although the files are there.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import ray
import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from training.cluster.progress_log import ProgressLog, follow
from training.data.chat import ChatError
from training.data.examples import ExampleError
from training.manifest import Manifest, ManifestError
from training.model.checkpoint import CheckpointError
from training.model.config import ModelConfigError
from training.model.lora import AdapterError
from training.model.reward import RewardModelError
from training.stages.artifact import finished
from training.stages.context import ConfigError, Progress, RunContext
from training.stages.state import KEPT_CHECKPOINTS, DirectoryCheckpoints, checkpoint_name, latest_complete

PROGRESS = "progress.jsonl"
START_TRIES, START_TOO_SLOW = 3, "timed out during startup"
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",  # a cluster of this process alone, on loopback
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # thousands of log lines otherwise
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # at 2 s, quick reports block for seconds
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
REFUSALS = (
    ConfigError,
    ExampleError,
    ChatError,
    CheckpointError,
    ModelConfigError,
    AdapterError,
    RewardModelError,
    ManifestError,
)
WORKER_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",  # a waiting thread must not burn the core that a chat wants
}


class StageRefusedError(ValueError):
    """A stage refused its config or its data; the text is the stage's own error."""


class StageConfig(Protocol):
    """What the runner needs of a config."""

    @property
    def output_directory(self) -> Path: ...


Config = TypeVar("Config", bound=StageConfig)


@dataclass(frozen=True)
class _Task:
    """What travels to the workers."""

    function: Callable[[StageConfig, RunContext], Manifest]
    config: StageConfig
    run_directory: Path


class _RayCheckpoints:
    """Rank 0 writes into a temporary directory, Ray copies it to the run's storage."""

    def __init__(self, run_directory: Path, rank: int) -> None:
        self._run_directory, self._rank = run_directory, rank

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """ray.train.report is a barrier: every rank reports, one brings files."""
        name = checkpoint_name(step)
        with tempfile.TemporaryDirectory() as temporary:
            checkpoint = None
            if self._rank == 0:
                directory = Path(temporary) / name
                directory.mkdir()
                write(directory)
                checkpoint = Checkpoint.from_directory(directory)
            ray.train.report({"step": step}, checkpoint=checkpoint, checkpoint_dir_name=name)

    def latest(self, before: int | None = None) -> Path | None:
        """The newest whole checkpoint in storage, registered or not."""
        return latest_complete(self._run_directory, before)


def run_stage(
    function: Callable[[Config, RunContext], Manifest],
    config: Config,
    run_name: str,
    storage: Path,
    num_workers: int,
    progress: Callable[[Progress], None],
    max_failures: int = 3,
) -> Manifest:
    """Run one stage to its end and return the manifest of its output.

    Checkpoints and progress.jsonl lie under storage/run_name: the same name goes on where a kill left it, and a finished
    stage (its output has a manifest) returns at once. num_workers 0: in this process, without Ray.

    Raises:
        StageRefusedError: config or data cannot be run (in this process: the stage's own error).
        ray.train.TrainingFailedError: the stage failed max_failures + 1 times; its cause is the stage's own error.
    """
    if done := finished(config.output_directory):
        return done
    run_directory = storage.absolute() / run_name
    run_directory.mkdir(parents=True, exist_ok=True)
    if num_workers == 0:
        with _following(run_directory / PROGRESS, progress):
            log = ProgressLog(run_directory / PROGRESS)
            return function(config, RunContext(DirectoryCheckpoints(run_directory), log.append))
    with local_cluster(num_workers), _following(run_directory / PROGRESS, progress):
        task = _Task(function, config, run_directory)  # type: ignore[arg-type]
        refusal = _trainer(task, num_workers, max_failures).fit().return_value
    if refusal is not None:
        raise StageRefusedError(refusal)
    manifest = finished(config.output_directory)
    if manifest is None:
        raise RuntimeError(f"{run_name}: the stage ended without an output")
    return manifest


def _trainer(task: _Task, num_workers: int, max_failures: int) -> TorchTrainer:
    return TorchTrainer(
        _work,
        train_loop_config={"task": task},
        scaling_config=ScalingConfig(num_workers=num_workers),
        run_config=RunConfig(
            name=task.run_directory.name,
            storage_path=str(task.run_directory.parent),
            failure_config=FailureConfig(max_failures=max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    )


def _work(parameters: dict[str, _Task]) -> str | None:
    """Runs in each worker. Returns why the stage refused its input, so that Ray does not try the same input again."""
    task = parameters["task"]
    where = ray.train.get_context()
    rank = where.get_world_rank()
    log = ProgressLog(task.run_directory / PROGRESS)
    context = RunContext(
        checkpoints=_RayCheckpoints(task.run_directory, rank),
        progress=log.append if rank == 0 else _ignore,
        rank=rank,
        world_size=where.get_world_size(),
    )
    try:
        task.function(task.config, context)
    except REFUSALS as error:
        return f"{type(error).__name__}: {error}"
    return None


def _ignore(_: Progress) -> None:
    """Ranks other than 0 report nothing."""


@contextmanager
def local_cluster(num_workers: int) -> Iterator[None]:
    """Ray on this machine for as long as the block runs; nothing without workers or where a cluster is there already.

    Starting Ray costs tens of seconds on two busy cores: hold this open around several stages.
    """
    if num_workers == 0 or ray.is_initialized():
        yield
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _start(max(num_workers, len(os.sched_getaffinity(0))) + 1)
    try:
        yield
    finally:
        ray.shutdown()


def _start(num_cpus: int) -> None:
    """Ray gives its own start 30 seconds, by a constant; on a machine that others keep busy it gets more than one try."""
    for tries_left in reversed(range(START_TRIES)):
        try:
            ray.init(num_cpus=num_cpus, include_dashboard=False, log_to_driver=False, configure_logging=False)
        except Exception as error:  # Ray raises nothing more special
            ray.shutdown()
            if not tries_left or START_TOO_SLOW not in str(error):
                raise
        else:
            return


@contextmanager
def _following(path: Path, progress: Callable[[Progress], None]) -> Iterator[None]:
    """Hand new lines of the progress file to the callback, from another thread, while the block runs."""
    stop = threading.Event()
    thread = threading.Thread(target=follow, args=(path, progress, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
