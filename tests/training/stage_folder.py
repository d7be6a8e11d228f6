"""Folder of a stage with the files that a run writes, without training and without torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.artifacts.manifest import write_manifest
from training.progress_log import PROGRESS, FollowedStage
from training.stage_record import RECORD, StageRecord, Start

SECRET = "a prompt of a user"
CONFIG: Mapping[str, Any] = {
    "data_path": "/data/rows.jsonl",
    "optimizer": {"learning_rate": 0.5, "name": "adamw"},
    "samples": {"prompts": [SECRET], "openings": 2},
    "seed": None,
    "lineage": {"version": "tuned", "code_commit": "c0ffee"},
}


class StageFolder:
    """A stage under `root` whose steps and end a test writes."""

    def __init__(self, root: Path, name: str = "tuned") -> None:
        self.directory, self.output = root / "runs" / name, root / name
        self.directory.mkdir(parents=True)
        config = {**CONFIG, "output_directory": str(self.output)}
        start = Start("2026-11-30T00:00:00+00:00", 1, 1, (), "2.15", "x86_64", "c" * 64)
        record = StageRecord(name, config, {"data_path": "d" * 64}, (start,))
        (self.directory / RECORD).write_text(json.dumps(asdict(record)))

    @property
    def followed(self) -> FollowedStage:
        """The stage as the only one of a run."""
        name, path = self.directory.name, self.directory / PROGRESS
        return FollowedStage(name, path, self.output, lambda: True)

    def add(self, steps: Sequence[int]) -> None:
        """Append steps with a loss of 1 / step."""
        rows = [
            {"stage": "sft", "step": step, "total_steps": 9, "metrics": {"loss": 1 / step}}
            for step in steps
        ]
        with (self.directory / PROGRESS).open("a") as opened:
            opened.writelines(json.dumps(row) + "\n" for row in rows)

    def finish(self) -> None:
        """Write the output with its report."""
        self.output.mkdir()
        report = {
            "held_out_loss": 0.25,
            "held_out_examples": 3,
            "by_source": {"thumbs": 3},
            "stopped_because": "",
            "kl": None,
        }
        write_manifest(self.output, kind="model", version=self.output.name, report=report)
