"""samples.jsonl: samples of the model at each checkpoint.

After a resume, steps after the checkpoint appear again; the later line is valid.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from training.runtime.context import Sample

SAMPLES = "samples.jsonl"


class SampleLog:
    """Appends samples to a file, each line with a single write."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, sample: Sample) -> None:
        """Append a sample as one line."""
        with self._path.open("a") as opened:
            opened.write(json.dumps(asdict(sample), ensure_ascii=False) + "\n")


def read_samples(path: Path) -> list[Sample]:
    """Return the valid samples by step, then in the order of the config's prompts."""
    if not path.exists():
        return []
    samples = [Sample(**json.loads(line)) for line in path.read_text().splitlines() if line]
    return sorted({(s.step, s.prompt): s for s in samples}.values(), key=lambda sample: sample.step)
