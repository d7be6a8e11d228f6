"""progress.jsonl: one line a step, appended by the stage and followed by the driver. It survives both.

After a resume, steps after the checkpoint appear again: the later line is the true one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

from training.stages.context import Progress

POLL_SECONDS = 0.2


class ProgressLog:
    """Appends steps to a file, each line in one write."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, progress: Progress) -> None:
        """Add one step."""
        row = {
            "stage": progress.stage,
            "step": progress.step,
            "total_steps": progress.total_steps,
            "metrics": dict(progress.metrics),
        }
        with self._path.open("a") as opened:
            opened.write(json.dumps(row) + "\n")


def read_progress(path: Path) -> list[Progress]:
    """The steps so far, in order, each once."""
    if not path.exists():
        return []
    steps = [_parse(line) for line in path.read_text().splitlines() if line]
    return [step for _, step in sorted({step.step: step for step in steps}.items())]


def follow(path: Path, progress: Callable[[Progress], None], stop: threading.Event) -> None:
    """Call `progress` for each line that is added from now on, until `stop` is set and the file is read out."""
    offset = path.stat().st_size if path.exists() else 0
    last_round = False
    while not last_round:
        last_round = stop.wait(POLL_SECONDS)
        if not path.exists():
            continue
        with path.open("rb") as opened:
            opened.seek(offset)
            whole = opened.read().rpartition(b"\n")[0]
        if whole:
            offset += len(whole) + 1
            for line in whole.split(b"\n"):
                progress(_parse(line.decode()))


def _parse(line: str) -> Progress:
    row = json.loads(line)
    return Progress(row["stage"], row["step"], row["total_steps"], row["metrics"])
