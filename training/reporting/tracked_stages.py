"""Stages as runs of trackers, followed by their files while they train.

A thread of the driver reads progress.jsonl, so a tracker cannot fail the training, and workers need
no package. A tracker that fails is left alone for the rest of the command, with one warning.

tracking.json beside progress.jsonl names the tracked run of each tracker and the last step that was
sent. A resumed stage continues there: steps that are repeated after a checkpoint are not sent
again. The step is written before it is sent, so that no step is sent twice; a kill between the two
loses the steps of at most POLL_SECONDS.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from durable_files.files import write_json
from training.artifacts.manifest import finished_manifest
from training.progress_log import PROGRESS, AddedLines, FollowedStage
from training.reporting.comparison import flat
from training.reporting.stage import StageRead, read_stage
from training.reporting.trackers import TRACKERS, End, TrackedConfig, Tracker
from training.reporting.tracking import Tracking
from training.stage_record import read_record

logger = logging.getLogger(__name__)

STATE = "tracking.json"
POLL_SECONDS = 1.0
END_SECONDS = 120.0  # for the rest, at the end of the command
LONGEST_ERROR = 160  # characters of an error in its warning
TEXT_FIELDS = ("samples.prompts",)  # config fields that hold texts, which are never tracked


@dataclass
class TrackedRun:
    """Entry of tracking.json.

    Attributes:
        run: id of the tracked run.
        step: the last step that was sent; 0 before the first.
        end: how the stage ended; "" while it trains.
    """

    run: str
    step: int = 0
    end: str = ""


@contextmanager
def tracked(stages: Sequence[FollowedStage], tracking: Tracking) -> Iterator[None]:
    """Record the stages with the trackers from another thread while the block runs."""
    if not tracking.names:
        yield
        return
    stop = threading.Event()
    trackers = [_Guarded(name, TRACKERS[name](tracking.directory)) for name in tracking.names]
    thread = threading.Thread(target=_follow, args=(stages, trackers, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(END_SECONDS)
        if thread.is_alive():
            logger.warning("tracking did not end within %g s and is incomplete", END_SECONDS)


@dataclass
class _Guarded:
    """Tracker that is not used again after its first error."""

    name: str
    tracker: Tracker
    has_failed: bool = False

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn an error of the block into one warning."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - of any class, from the package or its server
            self.has_failed = True
            lines = str(error).strip().splitlines() or [""]
            logger.warning(
                "%s: not tracked further, training goes on: %s: %s",
                *(self.name, type(error).__name__, lines[0][:LONGEST_ERROR]),
            )


class StageTracker:
    """A stage in one tracker.

    The tracked run is opened with the first new step, so a stage that is refused has none.

    Args:
        directory: folder of the stage.
        name: name of the tracker.
    """

    def __init__(self, directory: Path, name: str, tracker: Tracker) -> None:
        self._directory, self._name, self._tracker = directory, name, tracker
        self._added, self._is_open = AddedLines(directory / PROGRESS), False
        state = read_tracking(directory).get(name)
        self._entry = state or TrackedRun("")

    def update(self) -> None:
        """Send the steps that were added."""
        steps = [step for step in self._added.read() if step.step > self._entry.step]
        if steps:
            self._open(steps[0].stage)
            self._entry.step = steps[-1].step
            self._save()
            self._tracker.log(steps)

    def close(self, end: End) -> None:
        """Send the end figures; nothing if no step was ever sent, or the end is known."""
        if not self._entry.run or (not self._is_open and self._entry.end == end):
            return
        read = read_stage(self._directory)
        if read is None:
            return
        self._open(read.stage)
        self._tracker.close(end, end_figures(read), notes_of(read))
        self._entry.end = end
        self._save()

    def _open(self, kind: str) -> None:
        record = read_record(self._directory)
        if self._is_open or record is None:
            return
        fields = {
            name: value
            for name, value in flat(record.config, without=()).items()
            if name not in TEXT_FIELDS
        }
        inputs = {f"inputs.{name}": sha256 for name, sha256 in record.data.items()}
        config = TrackedConfig(record.output_directory.name, kind, {**fields, **inputs})
        self._entry.run, self._is_open = self._tracker.open(config, self._entry.run), True
        self._entry.end = ""
        self._save()

    def _save(self) -> None:
        entries = {**read_tracking(self._directory), self._name: self._entry}
        write_json(
            self._directory / STATE, {name: asdict(entry) for name, entry in entries.items()}
        )


def read_tracking(directory: Path) -> dict[str, TrackedRun]:
    """Return the entries of tracking.json in the folder of a stage, by tracker."""
    path = directory / STATE
    if not path.exists():
        return {}
    entries: Mapping[str, Mapping[str, Any]] = json.loads(path.read_text())
    return {name: TrackedRun(**entry) for name, entry in entries.items()}


def end_figures(read: StageRead) -> dict[str, float]:
    """Return the numbers of the manifest's report, by full name; empty without an output."""
    report = read.output.report if read.output else {}
    return {
        name: value
        for name, value in flat(report).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def notes_of(read: StageRead) -> dict[str, str]:
    """Return the state of the stage and its warnings, without the text of an error.

    An error may quote a row of the data.
    """
    notes = {"state": "failed" if read.failure else read.state_text}
    return notes | ({"warnings": "; ".join(read.warnings)} if read.warnings else {})


def _follow(
    stages: Sequence[FollowedStage], trackers: Sequence[_Guarded], stop: threading.Event
) -> None:
    """Send the steps and the end of each stage, until the last one or until `stop` is set."""
    for stage in stages:
        directory = stage.path.parent
        runs = [(one, StageTracker(directory, one.name, one.tracker)) for one in trackers]
        end: End | None = None
        while end is None:
            stopped = stop.wait(POLL_SECONDS)
            # The end is looked up before the file is read, so that the last lines are never missed.
            if finished_manifest(stage.output_directory) is not None:
                end = End.FINISHED
            elif stopped:
                read = read_stage(directory)
                end = End.FAILED if read is not None and read.failure else End.STOPPED
            for guard, run in runs:
                if not guard.has_failed:
                    with guard.errors():
                        run.update()
                        if end is not None:
                            run.close(end)
        if end is not End.FINISHED or not stage.continue_if():
            return
