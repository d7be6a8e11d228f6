"""The folder of runs and the lock: one turn at a time on one state, and every turn found again
where it stopped.

The lock is the kernel's (flock), so a killed loop leaves none behind; the file says who holds it.
On a volume that several nodes mount it is the file server's, which lets go of it once it has given
up a node that died: hence patience.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from training.errors import DetailedError

RECORD = "run.json"
RESULT = "result.json"
LOCK = "lock"
POLL_SECONDS = 0.5


class LoopRunningError(DetailedError, RuntimeError):
    """Another loop holds the lock; the text says which process, since when."""

    reason = "IN_USE"


@dataclass(frozen=True)
class RunRecord:
    """What a turn was begun with. `version` names the run too: a new one every turn."""

    version: str
    recipe: str
    incumbent: str
    snapshot: str
    started: str


@dataclass(frozen=True)
class RunResult:
    """How a turn ended: promoted, rolled back, refused, passed (no rollout was asked for), or
    erased (what it learned from is gone).
    """

    result: str
    reason: str
    ended: str


class Runs:
    """runs/<version>/ under the loop's directory, and beside it the snapshots that they pin."""

    def __init__(self, loop_directory: Path) -> None:
        self._root = loop_directory / "runs"
        self.snapshots = loop_directory / "snapshots"

    def directory(self, version: str) -> Path:
        return self._root / version

    def names(self) -> list[str]:
        """All runs, in the order in which they began."""
        return [record.version for record in self.records()]

    def unfinished(self, recipe: str) -> RunRecord | None:
        """The last run of this recipe if it has no result."""
        own = [record for record in self.records() if record.recipe == recipe]
        return own[-1] if own and self.result(own[-1].version) is None else None

    def last(self, recipe: str) -> RunRecord | None:
        """The run of this recipe that began last."""
        own = [record for record in self.records() if record.recipe == recipe]
        return own[-1] if own else None

    def begin(self, record: RunRecord) -> Path:
        """Make the run's folder."""
        directory = self.directory(record.version)
        directory.mkdir(parents=True)
        write_json(directory / RECORD, asdict(record))
        return directory

    def end(self, version: str, result: RunResult) -> None:
        """Write the result; after this the run is never resumed."""
        write_json(self.directory(version) / RESULT, asdict(result))

    def result(self, version: str) -> RunResult | None:
        path = self.directory(version) / RESULT
        return RunResult(**json.loads(path.read_text())) if path.exists() else None

    def record(self, version: str) -> RunRecord:
        return RunRecord(**json.loads((self.directory(version) / RECORD).read_text()))

    def records(self) -> list[RunRecord]:
        """How all runs were begun, in that order."""
        found = [
            RunRecord(**json.loads(path.read_text())) for path in self._root.glob(f"*/{RECORD}")
        ]
        return sorted(found, key=lambda record: (record.started, record.version))


@contextmanager
def exclusive(loop_directory: Path, doing: str, timeout_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock for the block.

    Raises:
        LoopRunningError: somebody else holds it, and has for as long as the patience lasts.
    """
    loop_directory.mkdir(parents=True, exist_ok=True)
    with (loop_directory / LOCK).open("a+") as opened:
        _lock(opened, timeout_seconds)
        opened.truncate(0)
        opened.write(
            f"process {os.getpid()}, {doing}, since {datetime.now(UTC).isoformat(timespec='seconds')}\n"
        )
        opened.flush()
        yield
        opened.truncate(0)


def _lock(opened: TextIO, timeout_seconds: float) -> None:
    end = time.monotonic() + timeout_seconds
    while True:
        try:
            return fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= end:
                opened.seek(0)
                who = opened.read().strip() or "it just started"
                raise LoopRunningError(f"a loop runs already: {who}", field=LOCK) from error
        time.sleep(POLL_SECONDS)


def write_json(path: Path, fields: dict[str, Any]) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("w") as opened:
        opened.write(json.dumps(fields, indent=1) + "\n")
        opened.flush()
        os.fsync(opened.fileno())
    partial.replace(path)
