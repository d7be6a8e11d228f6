"""status.json in the loop's directory: what a turn is doing and what it came to, for the page and
for metrics. Always whole, by rename.

Whoever writes it holds the loop's lock (runs.py). Standard library alone: the launcher on a cluster
has no more.
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
    """Where a step is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass
class Step:
    """One step as the page shows it. Times are RFC 3339, progress is 0 to 1."""

    name: str
    state: StepState = StepState.WAITING
    started: str | None = None
    ended: str | None = None
    progress: float = 0.0
    detail: str = ""


@dataclass
class Status:
    """What status.json holds. `result` is None while the turn runs; `report` is relative to the
    loop's directory; `erased_versions` are those that learned from what is gone now, each with its
    snapshot and the number of erasures; `needed_thumbs` is what a turn of the recipe needs,
    `learned_until` when the last one that had enough began, or empty.
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
    """What the last turn left; None: there was none, or it cannot be read."""
    try:
        fields = json.loads((directory / STATUS).read_text())
        steps = [Step(**{**step, "state": StepState(step["state"])}) for step in fields["steps"]]
        return Status(**{**fields, "steps": steps})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_status(directory: Path, status: Status) -> None:
    """Whole or not at all."""
    path = directory / STATUS
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(status), indent=1) + "\n")
    partial.replace(path)


def now() -> str:
    """As times stand there."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
