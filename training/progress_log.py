"""Steps and samples of a stage: progress.jsonl, samples.jsonl and TensorBoard files.

progress.jsonl has one line per step with its resources, for the driver and the reports.
samples.jsonl has the samples of the model at each checkpoint. In both, steps after the checkpoint
appear again after a resume; the later line is valid. `tensorboard --logdir STORAGE` shows metrics
and samples of all stages in a folder.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from durable_files import json_lines
from training.artifacts.manifest import finished_manifest
from training.runtime.context import Progress, Sample
from training.stage_record import SCRATCH, read_record, saved_step

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


PROGRESS = "progress.jsonl"
POLL_SECONDS = 0.2
SAMPLES = "samples.jsonl"
EVENTS = "tensorboard"
FLUSH_SECONDS = 10


class Watcher(Protocol):
    """Observer of stages.

    Called from another thread.
    """

    def begin(self, name: str) -> None: ...

    def move(self, name: str, progress: Progress) -> None: ...

    def end(self, name: str) -> None: ...


@dataclass(frozen=True)
class ProgressWatcher:
    """Watcher that forwards the progress of a single stage."""

    report: Callable[[Progress], None]

    def begin(self, name: str) -> None: ...

    def move(self, name: str, progress: Progress) -> None:
        self.report(progress)

    def end(self, name: str) -> None: ...


@dataclass(frozen=True)
class FollowedStage:
    """Stage to follow: its file of steps, its output, and whether later stages follow."""

    name: str
    path: Path
    output_directory: Path
    continue_if: Callable[[], bool]


@dataclass(frozen=True)
class Effort:
    """Resources that a stage has used since its start in this process.

    Attributes:
        elapsed_seconds: wall-clock time.
        processor_seconds: CPU time.
        memory_bytes: peak memory.
        workers: workers of the stage, each with the same effort.
    """

    elapsed_seconds: float = 0.0
    processor_seconds: float = 0.0
    memory_bytes: float = 0.0
    workers: int = 1


@dataclass(frozen=True)
class Line:
    """Progress and effort of a line."""

    progress: Progress
    effort: Effort


class ProgressLog:
    """Appends steps to a file."""

    def __init__(self, path: Path, workers: int = 1) -> None:
        self._path, self._workers = path, workers
        self._began, self._processor_before = time.monotonic(), time.process_time()

    def append(self, progress: Progress) -> None:
        """Append the progress of a step."""
        from training.runtime.machine import peak_memory_bytes

        effort = Effort(
            time.monotonic() - self._began,
            time.process_time() - self._processor_before,
            peak_memory_bytes(),
            self._workers,
        )
        row = {
            "stage": progress.stage,
            "step": progress.step,
            "total_steps": progress.total_steps,
            "metrics": dict(progress.metrics),
            "effort": asdict(effort),
        }
        json_lines.append_lines(self._path, [row], sync=False)


def read_lines(path: Path) -> list[Line]:
    """Return all lines in order, including steps that were repeated."""
    return [_parse(row) for row in json_lines.read_lines(path)]


def read_progress(path: Path) -> list[Progress]:
    """Return the valid steps in order."""
    return each_once(read_lines(path))


def each_once(lines: Sequence[Line]) -> list[Progress]:
    """Return the steps of these lines in order, with the later line of repeated steps."""
    return [
        step for _, step in sorted({line.progress.step: line.progress for line in lines}.items())
    ]


def resume_text(directory: Path) -> str:
    """Describe the step after which a run resumes; "" without local checkpoints."""
    lines, step = read_lines(directory / PROGRESS), saved_step(directory)
    return f"again after step {step} of {lines[-1].progress.total_steps}" if step and lines else ""


@contextmanager
def no_folders_without_steps(directories: Sequence[Path]) -> Iterator[None]:
    """Remove these folders of stages if the block fails before their first step.

    A requested stop is not a failure. An output counts as a step, and so does a scratch folder: the
    checkpoints in the bucket are unknown here.
    """
    try:
        yield
    except Exception:
        for directory in directories:
            record = read_record(directory)
            is_started = (
                (directory / PROGRESS).exists()
                or saved_step(directory) > 0
                or (directory / SCRATCH).exists()
                or (record is not None and finished_manifest(record.output_directory) is not None)
            )
            if directory.exists() and not is_started:
                shutil.rmtree(directory)
        raise


@contextmanager
def following(stages: Sequence[FollowedStage], watcher: Watcher) -> Iterator[None]:
    """Report the stages to the watcher from another thread while the block runs."""
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(stages, watcher, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(stages: Sequence[FollowedStage], watcher: Watcher, stop: threading.Event) -> None:
    """Report start, new steps and end of each stage to the watcher.

    The function returns after the last stage or when `stop` is set.
    """
    offsets = [stage.path.stat().st_size if stage.path.exists() else 0 for stage in stages]
    for stage, offset in zip(stages, offsets, strict=True):
        watcher.begin(stage.name)
        for progress in _added(stage, offset, stop):
            watcher.move(stage.name, progress)
        if not finished_manifest(stage.output_directory):
            return
        watcher.end(stage.name)
        if not stage.continue_if():
            return


def _added(stage: FollowedStage, offset: int, stop: threading.Event) -> Iterator[Progress]:
    """Yield new steps until the stage has ended, or `stop` is set and all lines are read."""
    added, ended = AddedLines(stage.path, offset), False
    while not ended:
        stopped = not finished_manifest(stage.output_directory) and stop.wait(POLL_SECONDS)
        # The end is looked up before the file is read, so that the last lines are never missed.
        ended = stopped or finished_manifest(stage.output_directory) is not None
        yield from added.read()


class AddedLines:
    """Reader of the steps that were added to a file since the last call.

    Args:
        offset: number of bytes that were read before.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path, self._offset = path, offset

    def read(self) -> list[Progress]:
        """Return the new steps in order, including steps that were repeated."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as opened:
            opened.seek(self._offset)
            whole = opened.read().rpartition(b"\n")[0]  # without a line that is being written
        if not whole:
            return []
        self._offset += len(whole) + 1
        return [_parse(row).progress for row in json_lines.parse_lines(whole)]


def _parse(row: Mapping[str, Any]) -> Line:
    progress = Progress(row["stage"], row["step"], row["total_steps"], row["metrics"])
    return Line(progress, Effort(**row.get("effort", {})))


class SampleLog:
    """Appends samples to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, sample: Sample) -> None:
        """Append a sample as one line."""
        json_lines.append_lines(self._path, [asdict(sample)], sync=False)


def read_samples(path: Path) -> list[Sample]:
    """Return the valid samples by step, then in the order of the config's prompts."""
    samples = [Sample(**row) for row in json_lines.read_lines(path)]
    return sorted({(s.step, s.prompt): s for s in samples}.values(), key=lambda sample: sample.step)


class EventFiles:
    """Writer that opens its file with the first step.

    After a resume, steps that are repeated replace all later steps of the interrupted run.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: SummaryWriter | None = None

    def append(self, progress: Progress) -> None:
        """Write all metrics of a step."""
        writer = self._open(progress.step)
        for name, value in progress.metrics.items():
            writer.add_scalar(name, value, progress.step)

    def append_sample(self, sample: Sample) -> None:
        """Write prompt and response, indented as code, because TensorBoard renders Markdown."""
        text = f"{sample.prompt}{sample.text}".replace("\n", "\n    ")
        self._open(sample.step).add_text(f"sample/{sample.prompt}", f"    {text}", sample.step)

    def close(self) -> None:
        """Flush and close the file."""
        if self._writer is not None:
            self._writer.close()

    def _open(self, step: int) -> SummaryWriter:
        if self._writer is None:
            # Imported here, because the import takes most of a second.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(
                str(self._directory), purge_step=step, flush_secs=FLUSH_SECONDS
            )
        return self._writer


@contextmanager
def stage_logs(
    directory: Path, workers: int
) -> Iterator[tuple[Callable[[Progress], None], Callable[[Sample], None]]]:
    """Open all logs in the directory of a stage; return functions that write steps and samples."""
    lines, written = ProgressLog(directory / PROGRESS, workers), SampleLog(directory / SAMPLES)
    with closing(EventFiles(directory / EVENTS)) as events:

        def progress(step: Progress) -> None:
            lines.append(step)
            events.append(step)

        def samples(sample: Sample) -> None:
            written.append(sample)
            events.append_sample(sample)

        yield progress, samples
