"""samples.jsonl: what the model wrote at each checkpoint, beside progress.jsonl.

As there, steps after a checkpoint appear again when a run is resumed: the later line is the true
one.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from training.stages.context import Sample

SAMPLES = "samples.jsonl"


class SampleLog:
    """Appends samples to a file, each line in one write."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, sample: Sample) -> None:
        """Add one."""
        with self._path.open("a") as opened:
            opened.write(json.dumps(asdict(sample), ensure_ascii=False) + "\n")


def read_samples(path: Path) -> list[Sample]:
    """By step, then as the prompts stand in the config; each once."""
    if not path.exists():
        return []
    samples = [Sample(**json.loads(line)) for line in path.read_text().splitlines() if line]
    return sorted({(s.step, s.prompt): s for s in samples}.values(), key=lambda sample: sample.step)
