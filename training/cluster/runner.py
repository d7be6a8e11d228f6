"""Run stages under Ray Train V2, or in this process. Either way a stage's progress, page and (but
for a bucket's) checkpoints lie under storage/name: where Ray has several machines, on a volume that
all of them mount.

One worker group runs several stages one after another: to start one costs half a minute of a
laptop's two cores. A checkpoint counts when its manifest agrees with its files, whatever Ray knows:
its controller polls, and would miss the last one before a kill. Ray is imported where it is used:
that costs seconds, and `snapshot` or `forget` need none of it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from training.cluster.bucket_checkpoints import BucketCheckpoints, CheckpointBucket
from training.cluster.event_files import EVENTS, EventFiles
from training.cluster.failure import failure_kept
from training.cluster.group import WORKER_ENVIRONMENT, Group, trainer
from training.cluster.notice import MARK, leaving_machines, stopped_by_signal, wait_until_gone
from training.cluster.progress_log import PROGRESS, Followed, ProgressLog, Watcher, follow
from training.cluster.ray_cluster import ray_cluster
from training.cluster.rollout_actors import rollout_actors
from training.cluster.sample_log import SAMPLES, SampleLog
from training.cluster.stage_record import SCRATCH, note_start
from training.data.bucket import BucketLocation, bucket_location
from training.data.chat import ChatError
from training.data.examples import ExampleError
from training.data.token_shards import ShardError
from training.errors import DetailedError, details_of
from training.manifest import Manifest, ManifestError
from training.model.fields import ModelConfigError
from training.model.lora import AdapterError
from training.model.reward import RewardModelError
from training.model.tensor_files import CheckpointError
from training.model.transformer import PositionError
from training.optim.gradients import NonFiniteError
from training.optim.ranks import ALONE, Ranks, all_different
from training.reporting.stage import write_stage_page
from training.rl.correction import StaleRolloutError
from training.rl.samplers import Samplers
from training.rl.served import OffPolicyError
from training.stages.artifact import finished_manifest
from training.stages.context import (
    Checkpoints,
    ConfigError,
    Progress,
    RunContext,
    Sample,
    StoppedError,
)
from training.stages.state import DirectoryCheckpoints

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

logger = logging.getLogger(__name__)

BOOKKEEPING = "ray"
GONE_SECONDS = 60.0  # for a machine that is taken away; Ray waits as long for one that is missing
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
)


class StageRefusedError(DetailedError, ValueError):
    """A stage refused its config or its data, or to learn from what is not finite; text and details
    are the stage's own error's.
    """


class StageConfig(Protocol):
    """What the runner needs of a config."""

    @property
    def output_directory(self) -> Path: ...


Config = TypeVar("Config", bound=StageConfig)


def _always() -> bool:
    return True


@dataclass(frozen=True)
class StageRun(Generic[Config]):
    """One stage of a run. Its name is that of its folder, so it goes on there after a kill.
    `lets_go_on` is asked once its output is there, on every worker and here: if not, the stages
    after it are not run.
    """

    name: str
    function: Callable[[Config, RunContext], Manifest]
    config: Config
    lets_go_on: Callable[[], bool] = _always


@dataclass(frozen=True)
class _Task:
    """What travels to the workers."""

    stages: Sequence[StageRun[Any]]
    storage: Path
    samplers: Samplers | None = None
    world_sizes: Sequence[int] = ()
    bucket_prefix: str | None = None

    @property
    def mark(self) -> Path:
        """A file that tells the run to stop."""
        return self.storage / MARK

    def checkpoints(self, directory: Path, ranks: Ranks) -> Checkpoints:
        """Of a stage, in its directory or in the bucket that this process is told of."""
        if self.bucket_prefix is None:
            return DirectoryCheckpoints(directory, ranks)
        bucket = CheckpointBucket(_place())
        prefix = f"{self.bucket_prefix}/{directory.name}"
        return BucketCheckpoints(bucket, prefix, directory / SCRATCH / str(ranks.rank), ranks)


@dataclass(frozen=True)
class _End:
    """Why a worker came back before its stages' end: one refused its input, which Ray must not try
    again, or was told to stop. machines: that are taken away, as far as this worker knew.
    """

    refusal: StageRefusedError | None = None
    stopped: StoppedError | None = None
    machines: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Reported:
    """Checkpoints of which Ray is told; nobody goes on before one is there."""

    kept: Checkpoints

    def save(self, step: int, write: Callable[[Path], None], on_notice: bool = False) -> None:
        """ray.train.report is a barrier."""
        import ray.train

        self.kept.save(step, write, on_notice)
        ray.train.report({"step": step})

    def latest(self, before: int | None = None) -> Path | None:
        """Whatever Ray knows."""
        return self.kept.latest(before)


def run_stages(
    stages: Sequence[StageRun[Any]],
    storage: Path,
    group: Group,
    watcher: Watcher,
    bucket_prefix: str | None = None,
) -> list[Manifest]:
    """Run stages one after another, to the last or to one that lets none go on; return the
    manifests of their outputs.

    Under the same storage and name a stage goes on where a kill left it, and a finished one (its
    output has a manifest) is not run again. SIGTERM, and in this process Ctrl-C, ends the step at
    hand and keeps it.

    Args:
        bucket_prefix: checkpoints go into the bucket of TW_TRAINING_S3_*, under it; None: into
            storage, beside everything else.

    Raises:
        StageRefusedError: config or data cannot be run (in this process: the stage's own error).
        StoppedError: told by SIGTERM or Ctrl-C. Workers whose machine is taken away stop too, and
            are started again where there is room.
        ray.train.TrainingFailedError: they failed max_failures + 1 times; its cause is the stage's
        own error.
    """
    storage = storage.absolute()
    task = _Task(stages, storage, world_sizes=group.sizes, bucket_prefix=bucket_prefix)
    if bucket_prefix is not None:
        _place()
    for stage in stages:
        (storage / stage.name).mkdir(parents=True, exist_ok=True)
    followed = [
        Followed(s.name, storage / s.name / PROGRESS, s.config.output_directory, s.lets_go_on)
        for s in stages
    ]
    with _pages([storage / stage.name for stage in stages]), _following(followed, watcher):
        _, due = _standing(stages)
        if due and group.workers == 0:
            with stopped_by_signal(task.mark):
                _run_each(stages, storage, partial(_context_here, task))
                _stop_if_told(task)
        elif due:
            _run_under_ray(task, group)
    manifests, due = _standing(stages)
    if due:
        raise RuntimeError(f"{due}: the stage ended without an output")
    return manifests


def run_stage(
    stage: StageRun[Any], storage: Path, progress: Callable[[Progress], None] = lambda _: None
) -> Manifest:
    """One stage in this process; see run_stages."""
    (manifest,) = run_stages([stage], storage, Group(), _OnlyProgress(progress))
    return manifest


@dataclass(frozen=True)
class _OnlyProgress:
    """A watcher that hands on what one stage reports."""

    report: Callable[[Progress], None]

    def begin(self, name: str) -> None: ...

    def move(self, name: str, progress: Progress) -> None:
        self.report(progress)

    def end(self, name: str) -> None: ...


def _standing(stages: Sequence[StageRun[Any]]) -> tuple[list[Manifest], str]:
    """The outputs that are there, and the stage that is due; empty: there is nothing more to run."""
    manifests: list[Manifest] = []
    for stage in stages:
        manifest = finished_manifest(stage.config.output_directory)
        if manifest is None:
            return manifests, stage.name
        manifests.append(manifest)
        if not stage.lets_go_on():
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
            with opened(directory) as context:
                if context.ranks.rank == 0:
                    note_start(stage.name, stage.config, directory, context.ranks.world_size)
                with failure_kept(directory) if context.ranks.rank == 0 else nullcontext():
                    stage.function(stage.config, context)
        if not stage.lets_go_on():
            return


@contextmanager
def _context_here(task: _Task, directory: Path) -> Iterator[RunContext]:
    with _reports(directory, ALONE) as (progress, samples):
        yield RunContext(
            task.checkpoints(directory, ALONE),
            progress,
            ALONE,
            samples,
            stop_requested=task.mark.exists,
        )


@contextmanager
def _reports(
    directory: Path, ranks: Ranks
) -> Iterator[tuple[Callable[[Progress], None], Callable[[Sample], None]]]:
    """Where steps and samples are told: our own lines, which everything else reads, and
    TensorBoard's files.
    """
    lines, written = (
        ProgressLog(directory / PROGRESS, ranks.world_size),
        SampleLog(directory / SAMPLES),
    )
    with closing(EventFiles(directory / EVENTS)) as events:

        def progress(step: Progress) -> None:
            lines.append(step)
            events.append(step)

        def samples(sample: Sample) -> None:
            written.append(sample)
            events.append_sample(sample)

        yield progress, samples


def _run_under_ray(task: _Task, group: Group) -> None:
    name = "+".join(stage.name for stage in task.stages)
    with (
        ray_cluster(group.processors),
        rollout_actors(group.rollout_actors, WORKER_ENVIRONMENT) as actors,
        stopped_by_signal(task.mark),
    ):
        while (
            end := _fit(
                trainer(
                    group, _work, replace(task, samplers=actors), name, task.storage / BOOKKEEPING
                )
            )
        ) is not None:
            if end.refusal:
                raise end.refusal
            if task.mark.exists():
                raise end.stopped or StoppedError()
            wait_until_gone(end.machines, GONE_SECONDS)
        _stop_if_told(task)


def _stop_if_told(task: _Task) -> None:
    """Whoever told the stages to stop meant also what comes after them."""
    if task.mark.exists():
        last = task.stages[-1].name
        raise StoppedError(f"{last}: stopped at its end", stage=last)


def _fit(prepared: TorchTrainer) -> _End | None:
    """Raises: KeyboardInterrupt on Ctrl-C, of which Ray makes an exit of the whole process."""
    try:
        end: _End | None = prepared.fit().return_value
    except SystemExit as error:
        raise KeyboardInterrupt from error
    return end


def _work(parameters: dict[str, _Task]) -> _End | None:
    """Runs in each worker."""
    try:
        task = parameters["task"]
        _run_each(task.stages, task.storage, partial(_context_of_worker, task))
    except REPORTED_ERRORS as error:
        return _End(
            refusal=StageRefusedError(f"{type(error).__name__}: {error}", **details_of(error))
        )
    except StoppedError as error:
        stopped = StoppedError(
            str(error), stage=error.stage, step=error.step
        )  # without the frames of this one
        return _End(stopped=stopped, machines=leaving_machines())
    return None


@contextmanager
def _context_of_worker(task: _Task, directory: Path) -> Iterator[RunContext]:
    import ray.train

    where = ray.train.get_context()
    ranks = all_different(where.get_world_rank(), where.get_world_size(), task.world_sizes)
    checkpoints = _Reported(task.checkpoints(directory, ranks))
    if ranks.rank > 0:
        yield RunContext(checkpoints, _ignore, ranks, _ignore, task.samplers, _machine_leaves)
        return
    with _reports(directory, ranks) as (progress, samples):
        told = partial(_told, task.mark)
        yield RunContext(checkpoints, progress, ranks, samples, task.samplers, told)


def _told(mark: Path) -> bool:
    """One worker looks for the mark, and tells the others."""
    return _machine_leaves() or mark.exists()


def _machine_leaves() -> bool:
    return bool(leaving_machines())


def _place() -> BucketLocation:
    """As this process is told: workers by their pods, so that keys of the store travel in no task
    of Ray's.
    """
    place = bucket_location(os.environ)
    if place is None:
        raise ConfigError(
            "checkpoints: in a bucket, but no TW_TRAINING_S3_ENDPOINT says which",
            field="TW_TRAINING_S3_ENDPOINT",
            reason="MISSING",
        )
    return place


def _ignore(_: object) -> None:
    """Ranks other than 0 report nothing."""


@contextmanager
def _following(stages: Sequence[Followed], watcher: Watcher) -> Iterator[None]:
    """Tell the watcher what the stages do, from another thread, while the block runs."""
    stop = threading.Event()
    thread = threading.Thread(target=follow, args=(stages, watcher, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _pages(directories: Sequence[Path]) -> Iterator[None]:
    """A page of each stage that began, however the block ends."""
    try:
        yield
    finally:
        for directory in directories:
            try:
                write_stage_page(directory)
            except (
                Exception
            ):  # a page is no reason to lose what was trained, or to hide why it was not
                logger.exception(
                    "page of %s: not written; `python -m training report` tries again",
                    directory.name,
                )
