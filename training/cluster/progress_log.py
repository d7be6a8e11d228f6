"""progress.jsonl: one line a step with what it took, appended by the stage and followed by the
driver. It survives both.

After a resume, steps after the checkpoint appear again: the later line is the true one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from training.cluster.stage_record import kept_step
from training.stages.artifact import finished_manifest
from training.stages.context import Progress

PROGRESS = "progress.jsonl"
POLL_SECONDS = 0.2


class Watcher(Protocol):
    """Whoever wants to know what stages do. Called from another thread."""

    def begin(self, name: str) -> None: ...

    def move(self, name: str, progress: Progress) -> None: ...

    def end(self, name: str) -> None: ...


@dataclass(frozen=True)
class Followed:
    """A stage as its follower sees it: its file of steps, the directory whose manifest ends it, and
    whether another comes then.
    """

    name: str
    path: Path
    output_directory: Path
    lets_go_on: Callable[[], bool]


@dataclass(frozen=True)
class Effort:
    """What a stage had taken at the end of a step since it began in this process, in seconds: on
    the clock, and of its processors.
    memory_bytes: the most so far. workers: that worked on it, each as much.
    """

    elapsed_seconds: float = 0.0
    processor_seconds: float = 0.0
    memory_bytes: float = 0.0
    workers: int = 1


@dataclass(frozen=True)
class Line:
    """As it was written."""

    progress: Progress
    effort: Effort


class ProgressLog:
    """Appends steps to a file, each line in one write."""

    def __init__(self, path: Path, workers: int = 1) -> None:
        self._path, self._workers = path, workers
        self._began, self._processor_before = time.monotonic(), time.process_time()

    def append(self, progress: Progress) -> None:
        """Add one step."""
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
        from training.stages.machine import peak_memory_bytes

        elapsed, processor = (
            time.monotonic() - self._began,
            time.process_time() - self._processor_before,
        )
        return Effort(elapsed, processor, peak_memory_bytes(), self._workers)


def read_lines(path: Path) -> list[Line]:
    """Every line, also of steps that were taken twice, as they were written."""
    if not path.exists():
        return []
    return [_parse(line) for line in path.read_text().splitlines() if line]


def read_progress(path: Path) -> list[Progress]:
    """The steps so far, in order, each once."""
    return each_once(read_lines(path))


def each_once(lines: Sequence[Line]) -> list[Progress]:
    """The steps of these lines, in order: of one that was taken again, the later line."""
    return [
        step for _, step in sorted({line.progress.step: line.progress for line in lines}.items())
    ]


def kept_text(directory: Path) -> str:
    """After which step a run goes on; empty where it begins, or where its checkpoints lie
    elsewhere.
    """
    lines, step = read_lines(directory / PROGRESS), kept_step(directory)
    return f"again after step {step} of {lines[-1].progress.total_steps}" if step and lines else ""


def follow(stages: Sequence[Followed], watcher: Watcher, stop: threading.Event) -> None:
    """Tell the watcher each stage's beginning, the steps that are added from now on, and its end:
    until there is no other, or `stop`.
    """
    offsets = [stage.path.stat().st_size if stage.path.exists() else 0 for stage in stages]
    for stage, offset in zip(stages, offsets, strict=True):
        watcher.begin(stage.name)
        for progress in _added(stage, offset, stop):
            watcher.move(stage.name, progress)
        if not finished_manifest(stage.output_directory):
            return
        watcher.end(stage.name)
        if not stage.lets_go_on():
            return


def _added(stage: Followed, offset: int, stop: threading.Event) -> Iterator[Progress]:
    """New lines until the stage has ended, or `stop` is set and the file is read out."""
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
    """Without its effort it is of a run that was begun before that was noted."""
    row = json.loads(line)
    progress = Progress(row["stage"], row["step"], row["total_steps"], row["metrics"])
    return Line(progress, Effort(**row.get("effort", {})))
