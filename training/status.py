"""Format of status.json, the state of a run for the page and for metrics; written atomically.

Writers hold the lock of the loop (runs.py). Only the standard library is imported, because the
image of the launcher contains nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

STATUS = "status.json"
FAILED, STOPPED = "failed", "stopped"


class StepState(StrEnum):
    """State of a step."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"
    REFUSED = "refused"
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
