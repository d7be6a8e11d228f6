"""Execution of stages under Ray Train V2 or in this process.

Progress, page and (unless in a bucket) checkpoints of a stage are under storage/name, which must be
on a shared volume if Ray has several machines.

One worker group runs several stages, because the start of a group takes half a minute on two laptop
cores. A checkpoint is valid if its manifest matches its files. Ray's own records are not used,
because its controller polls and would miss the last checkpoint before a kill. Ray is imported in
functions, because the import takes seconds and `snapshot` or `forget` do not need Ray. The client
of the bucket is imported in functions too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from training.artifacts.inputs import FileState, known_hashes, remember_hashes
from training.artifacts.manifest import Manifest, ManifestError, finished_manifest
from training.cluster.group import BOOKKEEPING, WORKER_ENVIRONMENT, Group, ray_cluster, trainer
from training.cluster.notice import STOP_FILE, leaving_machines, stopped_by_signal, wait_until_gone
from training.cluster.rollout_actors import rollout_actors
from training.data.chat import ChatError
from training.data.formats.fields import ExampleError
from training.data.token_shards import ShardError
from training.errors import ConfigError, DetailedError, details_of
from training.model.fields import ModelConfigError
from training.model.lora import AdapterError
from training.model.reward import RewardModelError
from training.model.tensor_files import CheckpointError
from training.model.transformer import PositionError
from training.optim.gradients import NonFiniteError
from training.progress_log import (
    PROGRESS,
    FollowedStage,
    ProgressWatcher,
    Watcher,
    following,
    no_folders_without_steps,
    stage_logs,
)
from training.reporting.stage import pages_at_end
from training.reporting.tracked_stages import tracked
from training.reporting.tracking import Tracking
from training.rl.correction import StaleRolloutError
from training.rl.rollout_server.server import RolloutServerError
from training.rl.rollout_server.weight_sync import DeadSyncError, SamplerMismatchError
from training.rl.samplers import Samplers
from training.rl.served import OffPolicyError
from training.runtime.context import Checkpoints, Progress, RunContext, StoppedError
from training.runtime.paths import no_empty_folders
from training.runtime.ranks import ALONE, Ranks, all_different
from training.runtime.training_state import DirectoryCheckpoints
from training.stage_record import (
    SCRATCH,
    ConfigWithOutput,
    check_same_inputs,
    record_start,
    recorded_failure,
    remove_unsaved_run,
)

if TYPE_CHECKING:
    from training.data.feedback.bucket import BucketLocation

NOT_TRACKED = Tracking()
GONE_SECONDS = 60.0  # for a preempted machine; Ray waits as long for a missing one
REPORTED_ERRORS = (
    ConfigError,
    ExampleError,
    ShardError,
    ChatError,
    CheckpointError,
    ModelConfigError,
    PositionError,
    AdapterError,
    RewardModelError,
    ManifestError,
    NonFiniteError,
    StaleRolloutError,
    OffPolicyError,
    DeadSyncError,
    SamplerMismatchError,
    RolloutServerError,
)


class StageRefusedError(DetailedError, ValueError):
    """A stage rejected its config, its data, or a gradient that is not finite.

    Text and details are those of the stage's error.
    """


Config = TypeVar("Config", bound=ConfigWithOutput)


@dataclass(frozen=True)
class StageRun(Generic[Config]):
    """Stage of a run.

    The name is that of its folder, where it resumes. `continue_if` is called after the stage has an
    output, on every worker and in the driver; if it returns False, later stages do not run.
    """

    name: str
    function: Callable[[Config, RunContext], Manifest]
    config: Config
    continue_if: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class _Task:
    """Parameters of a worker.

    Attributes:
        hashes: of the input files, computed by the driver; workers reuse them.
    """

    stages: Sequence[StageRun[Any]]
    storage: Path
    samplers: Samplers | None = None
    world_sizes: Sequence[int] = ()
    bucket_prefix: str | None = None
    hashes: Mapping[FileState, str] = field(default_factory=dict)

    @property
    def stop_file(self) -> Path:
        """Path of the stop file."""
        return self.storage / STOP_FILE

    def checkpoints(self, directory: Path, ranks: Ranks) -> Checkpoints:
        """Return the checkpoints of a stage, in its directory or in the bucket."""
        if self.bucket_prefix is None:
            return DirectoryCheckpoints(directory, ranks)
        from training.cluster.bucket_checkpoints import BucketCheckpoints, CheckpointBucket

        bucket = CheckpointBucket(_bucket_place())
        prefix = f"{self.bucket_prefix}/{directory.name}"
        return BucketCheckpoints(bucket, prefix, directory / SCRATCH / str(ranks.rank), ranks)


@dataclass(frozen=True)
class _WorkerResult:
    """Reason why a worker returned early: an error that Ray must not retry, or a requested stop.

    Attributes:
        machines: machines that are being preempted, as known to this worker.
    """

    refusal: StageRefusedError | None = None
    stopped: StoppedError | None = None
    machines: tuple[str, ...] = ()


@dataclass(frozen=True)
class _ReportedCheckpoints:
    """Checkpoints that are also reported to Ray, with a barrier until each is complete."""

    kept: Checkpoints

    def save(self, step: int, write: Callable[[Path], None], on_notice: bool = False) -> None:
        """Save, then wait for all workers: ray.train.report is a barrier."""
        import ray.train

        self.kept.save(step, write, on_notice)
        ray.train.report({"step": step})

    def latest(self, before: int | None = None) -> Path | None:
        """Return the latest checkpoint, independent of Ray's records."""
        return self.kept.latest(before)


def run_stages(
    stages: Sequence[StageRun[Any]],
    storage: Path,
    group: Group,
    watcher: Watcher,
    bucket_prefix: str | None = None,
    tracking: Tracking = NOT_TRACKED,
) -> list[Manifest]:
    """Run stages in order; return the manifests of their outputs.

    A stage with the same storage and name resumes after an interruption; a finished stage (its
    output has a manifest) is skipped. SIGTERM, and Ctrl-C in this process, stop after the current
    step, which is saved.

    Args:
        bucket_prefix: prefix of checkpoints in the bucket of TW_TRAINING_S3_*; None: checkpoints
            are in the storage.
        tracking: trackers that also record the stages.

    Raises:
        ConfigError: inputs of a stage with a saved step have changed.
        StageRefusedError: config or data are invalid (without Ray: the stage's own error). No
            folder is left of a stage that fails before its first step.
        StoppedError: stopped by SIGTERM or Ctrl-C. Workers on a preempted machine also stop, and
            restart when there is room.
        ray.train.TrainingFailedError: workers failed max_failures + 1 times; the cause is the
            stage's error.
    """
    storage = storage.absolute()
    directories = [storage / stage.name for stage in stages]
    new = [directory for directory in directories if not directory.exists()]
    for stage, directory in zip(stages, directories, strict=True):
        if not finished_manifest(stage.config.output_directory):
            check_same_inputs(stage.config, directory)
            remove_unsaved_run(stage.config, directory)
    task = _Task(stages, storage, None, group.sizes, bucket_prefix, known_hashes())
    if bucket_prefix is not None:
        _bucket_place()
    followed = [
        FollowedStage(s.name, storage / s.name / PROGRESS, s.config.output_directory, s.continue_if)
        for s in stages
    ]
    with (
        no_empty_folders(storage),
        no_folders_without_steps(new),
        pages_at_end(directories),
        tracked(followed, tracking),
        following(followed, watcher),
    ):
        for directory in directories:
            directory.mkdir(parents=True, exist_ok=True)
        _, due = _finished(stages)
        if due and group.workers == 0:
            with stopped_by_signal(task.stop_file):
                _run_each(stages, storage, partial(_context_here, task))
                _stop_if_requested(task)
        elif due:
            _run_under_ray(task, group)
    manifests, due = _finished(stages)
    if due:
        raise RuntimeError(f"{due}: the stage ended without an output")
    return manifests


def run_stage(
    stage: StageRun[Any],
    storage: Path,
    progress: Callable[[Progress], None] = lambda _: None,
    tracking: Tracking = NOT_TRACKED,
) -> Manifest:
    """Run a single stage in this process; see `run_stages`."""
    watcher = ProgressWatcher(progress)
    return run_stages([stage], storage, Group(), watcher, tracking=tracking)[0]


def _finished(stages: Sequence[StageRun[Any]]) -> tuple[list[Manifest], str]:
    """Return the finished outputs, and the next stage to run or ""."""
    manifests: list[Manifest] = []
    for stage in stages:
        manifest = finished_manifest(stage.config.output_directory)
        if manifest is None:
            return manifests, stage.name
        manifests.append(manifest)
        if not stage.continue_if():
            break
    return manifests, ""


def _run_each(
    stages: Sequence[StageRun[Any]],
    storage: Path,
    opened: Callable[[Path], AbstractContextManager[RunContext]],
) -> None:
    for stage in stages:
        if not finished_manifest(stage.config.output_directory):
            directory = storage / stage.name
            check_same_inputs(stage.config, directory)  # an earlier stage may have replaced them
            with opened(directory) as context:
                if context.ranks.rank == 0:
                    record_start(stage.name, stage.config, directory, context.ranks.world_size)
                with recorded_failure(directory) if context.ranks.rank == 0 else nullcontext():
                    stage.function(stage.config, context)
        if not stage.continue_if():
            return


@contextmanager
def _context_here(task: _Task, directory: Path) -> Iterator[RunContext]:
    with stage_logs(directory, ALONE.world_size) as (progress, samples):
        yield RunContext(
            task.checkpoints(directory, ALONE),
            progress,
            ALONE,
            samples,
            stop_requested=task.stop_file.exists,
        )


def _run_under_ray(task: _Task, group: Group) -> None:
    name = "+".join(stage.name for stage in task.stages)
    with (
        ray_cluster(group.processors),
        rollout_actors(group.rollout_actors, WORKER_ENVIRONMENT) as actors,
        stopped_by_signal(task.stop_file),
    ):
        sent = replace(task, samplers=actors)
        while True:
            prepared = trainer(group, _work, sent, name, task.storage / BOOKKEEPING)
            try:
                end: _WorkerResult | None = prepared.fit().return_value
            except SystemExit as error:  # Ray converts Ctrl-C to SystemExit
                raise KeyboardInterrupt from error
            if end is None:
                break
            if end.refusal:
                raise end.refusal
            if task.stop_file.exists():
                raise end.stopped or StoppedError()
            wait_until_gone(end.machines, GONE_SECONDS)
        _stop_if_requested(task)


def _stop_if_requested(task: _Task) -> None:
    """Raise StoppedError if a stop was requested, so that later work does not start."""
    if task.stop_file.exists():
        last = task.stages[-1].name
        raise StoppedError(f"{last}: stopped at its end", stage=last)


def _work(parameters: dict[str, _Task]) -> _WorkerResult | None:
    """Run all stages in a worker."""
    try:
        task = parameters["task"]
        remember_hashes(task.hashes)
        _run_each(task.stages, task.storage, partial(_context_of_worker, task))
    except REPORTED_ERRORS as error:
        return _WorkerResult(
            refusal=StageRefusedError(f"{type(error).__name__}: {error}", **details_of(error))
        )
    except StoppedError as error:
        # A new exception without a traceback, because frames cannot be sent.
        stopped = StoppedError(str(error), stage=error.stage, step=error.step)
        return _WorkerResult(stopped=stopped, machines=leaving_machines())
    return None


@contextmanager
def _context_of_worker(task: _Task, directory: Path) -> Iterator[RunContext]:
    import ray.train

    where = ray.train.get_context()
    ranks = all_different(where.get_world_rank(), where.get_world_size(), task.world_sizes)
    checkpoints = _ReportedCheckpoints(task.checkpoints(directory, ranks))

    def stop_requested() -> bool:
        # Only the first worker checks the file.
        return bool(leaving_machines()) or (ranks.rank == 0 and task.stop_file.exists())

    if ranks.rank > 0:
        yield RunContext(checkpoints, _ignore, ranks, _ignore, task.samplers, stop_requested)
        return
    with stage_logs(directory, ranks.world_size) as (progress, samples):
        yield RunContext(checkpoints, progress, ranks, samples, task.samplers, stop_requested)


def _bucket_place() -> BucketLocation:
    """Return the bucket from this process's environment.

    Workers read their own environment, so credentials are not part of a Ray task.
    """
    from training.data.feedback.bucket import bucket_location

    place = bucket_location(os.environ)
    if place is None:
        raise ConfigError(
            "checkpoints: a bucket needs TW_TRAINING_S3_ENDPOINT",
            field="TW_TRAINING_S3_ENDPOINT",
            reason="MISSING",
        )
    return place


def _ignore(_: object) -> None:
    """Discard reports of ranks other than 0."""
