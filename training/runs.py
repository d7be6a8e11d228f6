"""Folders of runs, the lock of the loop, and status.json.

One run is active at a time and resumes after an interruption. The lock is an flock of the kernel,
so a killed loop leaves no lock behind. The file names its holder. On a volume that several nodes
mount, the file server holds the lock and releases it only after it has given up a dead node;
callers wait with a timeout for this case.

status.json is the state of a run for the page and for metrics; writers hold the lock. Only the
standard library is imported, because the image of the launcher contains nothing else.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from durable_files.files import make_directory, write_json
from training.errors import DetailedError

RECORD = "run.json"
RESULT = "result.json"
LOCK = "lock"
POLL_SECONDS = 0.5
STATUS = "status.json"
FAILED, STOPPED = "failed", "stopped"


class LoopRunningError(DetailedError, RuntimeError):
    """Another loop holds the lock; the text names the process and its start."""

    reason = "IN_USE"


HALTED = 5  # exit status


class HaltedError(KeyboardInterrupt):
    """An operator has halted canaries and training runs.

    As with Ctrl-C, this is not a failure: the same command resumes the run after the halt.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"halted by an operator: {reason}; after `thumbwheel resume` the same "
            "command continues the run"
        )


@dataclass(frozen=True)
class RunRecord:
    """Parameters of a run.

    `version` is also the name of the run, and is new for every run.
    """

    version: str
    recipe: str
    incumbent: str
    snapshot: str
    started: str


@dataclass(frozen=True)
class RunResult:
    """Result of a run.

    The result is promoted, rolled back, refused, held (the gate had too little data), passed (no
    rollout was requested), or erased (the training data was erased).
    """

    result: str
    reason: str
    ended: str


class Runs:
    """Folders runs/<version>/ of the loop, and the snapshots that runs refer to."""

    def __init__(self, loop_directory: Path) -> None:
        self._root = loop_directory / "runs"
        self.snapshots = loop_directory / "snapshots"

    def directory(self, version: str) -> Path:
        """Return the folder of a run."""
        return self._root / version

    def names(self) -> list[str]:
        """Return the versions of all runs, in order of start."""
        return [record.version for record in self.records()]

    def unfinished(self, recipe: str) -> RunRecord | None:
        """Return the last run of this recipe if it has no result."""
        own = [record for record in self.records() if record.recipe == recipe]
        return own[-1] if own and self.result(own[-1].version) is None else None

    def last(self, recipe: str) -> RunRecord | None:
        """Return the last run of this recipe."""
        own = [record for record in self.records() if record.recipe == recipe]
        return own[-1] if own else None

    def begin(self, record: RunRecord) -> Path:
        """Create the folder of a run."""
        directory = self.directory(record.version)
        if (directory / RECORD).exists():
            raise FileExistsError(directory)
        # A killed loop may have left the folder without its record.
        write_json(directory / RECORD, asdict(record))
        return directory

    def end(self, version: str, result: RunResult) -> None:
        """Write the result.

        A run with a result is never resumed.
        """
        write_json(self.directory(version) / RESULT, asdict(result))

    def result(self, version: str) -> RunResult | None:
        """Return the result of a run, or None if it is unfinished."""
        path = self.directory(version) / RESULT
        return RunResult(**json.loads(path.read_text())) if path.exists() else None

    def record(self, version: str) -> RunRecord:
        """Return the parameters of a run."""
        return RunRecord(**json.loads((self.directory(version) / RECORD).read_text()))

    def records(self) -> list[RunRecord]:
        """Return the parameters of all runs, in order of start."""
        found = [
            RunRecord(**json.loads(path.read_text())) for path in self._root.glob(f"*/{RECORD}")
        ]
        return sorted(found, key=lambda record: (record.started, record.version))


@contextmanager
def exclusive(loop_directory: Path, doing: str, timeout_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock inside the block.

    Args:
        doing: description of the holder, written to the lock file.
        timeout_seconds: time to wait for the lock.

    Raises:
        LoopRunningError: another process still holds the lock after the timeout.
    """
    make_directory(loop_directory)
    with (loop_directory / LOCK).open("a+") as opened:
        end = time.monotonic() + timeout_seconds
        while True:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= end:
                    opened.seek(0)
                    holder = opened.read().strip() or "it just started"
                    raise LoopRunningError(
                        f"another loop is running: {holder}", field=LOCK
                    ) from error
            time.sleep(POLL_SECONDS)
        opened.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        opened.write(f"process {os.getpid()}, {doing}, since {since}\n")
        opened.flush()
        yield
        opened.truncate(0)


class StepState(StrEnum):
    """State of a step."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"
    REFUSED = "refused"
    HELD = "held"
    FAILED = "failed"


@dataclass
class Step:
    """One step of a run.

    Times are RFC 3339; progress is in [0, 1].
    """

    name: str
    state: StepState = StepState.WAITING
    started: str | None = None
    ended: str | None = None
    progress: float = 0.0
    detail: str = ""


@dataclass
class Status:
    """Content of status.json.

    Attributes:
        result: None while the run is active.
        report: path relative to the directory of the loop.
        erased_versions: versions that learned from erased feedback, each with its snapshot and the
            number of erasures.
        needed_thumbs: thumbs that a run of the recipe needs.
        learned_until: start of the last run with enough feedback, or "".
    """

    run: str
    recipe: str
    started: str
    step: str = ""
    steps: list[Step] = field(default_factory=list)
    result: str | None = None
    reason: str = ""
    report: str | None = None
    updated: str = ""
    erased_versions: list[Mapping[str, object]] = field(default_factory=list)
    needed_thumbs: int = 0
    learned_until: str = ""


def read_status(directory: Path) -> Status | None:
    """Return the status of the last run; None if it is missing or unreadable."""
    try:
        fields = json.loads((directory / STATUS).read_text())
        steps = [Step(**{**step, "state": StepState(step["state"])}) for step in fields["steps"]]
        return Status(**{**fields, "steps": steps})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_status(directory: Path, status: Status) -> None:
    """Write the status atomically."""
    path = directory / STATUS
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(status), indent=1) + "\n")
    partial.replace(path)


def now() -> str:
    """Return the current time in the format of status.json (RFC 3339, UTC)."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
