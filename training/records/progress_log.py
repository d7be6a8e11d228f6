"""progress.jsonl: one line per step with its resources, for the driver and the reports.

After a resume, steps after the checkpoint appear again; the later line is valid.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from training.artifacts.manifest import finished_manifest
from training.records.stage_record import saved_step
from training.runtime.context import Progress

PROGRESS = "progress.jsonl"
POLL_SECONDS = 0.2


class Watcher(Protocol):
    """Observer of stages.

    Called from another thread.
    """

    def begin(self, name: str) -> None: ...

    def move(self, name: str, progress: Progress) -> None: ...

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
    """Appends steps to a file, each line with a single write."""

    def __init__(self, path: Path, workers: int = 1) -> None:
        self._path, self._workers = path, workers
        self._began, self._processor_before = time.monotonic(), time.process_time()

    def append(self, progress: Progress) -> None:
        """Append the progress of a step."""
        row = {
            "stage": progress.stage,
            "step": progress.step,
            "total_steps": progress.total_steps,
            "metrics": dict(progress.metrics),
            "effort": asdict(self._effort()),
        }
        with self._path.open("a") as opened:
            opened.write(json.dumps(row) + "\n")

    def _effort(self) -> Effort:
        from training.runtime.machine import peak_memory_bytes

        elapsed, processor = (
            time.monotonic() - self._began,
            time.process_time() - self._processor_before,
        )
        return Effort(elapsed, processor, peak_memory_bytes(), self._workers)


def read_lines(path: Path) -> list[Line]:
    """Return all lines in order, including steps that were repeated."""
    if not path.exists():
        return []
    return [_parse(line) for line in path.read_text().splitlines() if line]


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


def follow(stages: Sequence[FollowedStage], watcher: Watcher, stop: threading.Event) -> None:
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
    ended = False
    while not ended:
        stopped = not finished_manifest(stage.output_directory) and stop.wait(POLL_SECONDS)
        ended = stopped or finished_manifest(stage.output_directory) is not None
        whole = _whole_lines(stage.path, offset)
        if whole:
            offset += len(whole) + 1
            yield from (_parse(line.decode()).progress for line in whole.split(b"\n"))


def _whole_lines(path: Path, offset: int) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as opened:
        opened.seek(offset)
        return opened.read().rpartition(b"\n")[0]


def _parse(line: str) -> Line:
    """Parse a line.

    Lines of earlier versions have no effort.
    """
    row = json.loads(line)
    progress = Progress(row["stage"], row["step"], row["total_steps"], row["metrics"])
    return Line(progress, Effort(**row.get("effort", {})))
