"""Size of a run, and the record of its finished steps."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from durable_files.files import write_json
from training.errors import ConfigError

RECORD = "life.json"
FULL_MINUTES = 30.0
MIN_MINUTES, MAX_MINUTES = 0.5, 24 * 60.0


@dataclass(frozen=True)
class Plan:
    """Size of a run. Numbers grow in proportion to the minutes, measured on two quiet cores.

    Raises:
        ConfigError: the minutes are out of range.
    """

    minutes: float = FULL_MINUTES

    def __post_init__(self) -> None:
        if not MIN_MINUTES <= self.minutes <= MAX_MINUTES:
            limit = f"{MIN_MINUTES:g} to {MAX_MINUTES:g}"
            raise ConfigError(
                f"minutes: {self.minutes:g} is not from {limit}",
                field="minutes",
                reason="OUT_OF_RANGE",
                limit=limit,
            )

    def scaled(self, full: int, least: int) -> int:
        """Return a number for these minutes, given that of FULL_MINUTES."""
        return max(least, math.ceil(full * self.minutes / FULL_MINUTES))

    @property
    def pages(self) -> int:
        """Largest number of pages of each of the two crawls."""
        return self.scaled(3000, 40)

    @property
    def decontaminate(self) -> bool:
        """Drop texts with items of the benchmarks.

        The index of all items takes longer than the other steps of a short run together.
        """
        return self.minutes >= FULL_MINUTES / 10

    @property
    def vocabulary(self) -> int:
        """Number of tokens. Each needs examples, so a short run has fewer."""
        return 2048 if self.minutes > FULL_MINUTES / 4 else 1024

    @property
    def pretrain_steps(self) -> int:
        """Optimizer steps of each of the two base models."""
        return self.scaled(1200, 12)

    @property
    def conversations(self) -> int:
        """Conversations of supervised fine-tuning."""
        return self.scaled(24_000, 256)

    @property
    def pairs(self) -> int:
        """Judged pairs of answers for the reward model."""
        return self.scaled(3000, 96)

    @property
    def updates(self) -> int:
        """Number of updates of PPO."""
        return self.scaled(12, 1)

    @property
    def questions(self) -> int:
        """Questions of the evaluation, of each kind."""
        return self.scaled(200, 12)


@dataclass
class Journal:
    """Finished steps of a run with seconds and figures, in RECORD of its folder.

    Raises:
        ConfigError: the folder has a run with other minutes.
    """

    folder: Path
    plan: Plan
    say: Callable[[str], None]
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        path = self.folder / RECORD
        if not path.exists():
            return
        found = json.loads(path.read_text())
        if found["minutes"] != self.plan.minutes:
            raise ConfigError(
                f"minutes: {self.folder} has a run of {found['minutes']:g} minutes; continue with "
                "the same number, or choose another folder with --work",
                field="minutes",
                reason="MISMATCH",
                limit=f"{found['minutes']:g}",
            )
        self.steps = found["steps"]

    def step(self, name: str, run: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Run a step unless it is finished; return its figures.

        Args:
            run: returns the figures, as JSON values.
        """
        if name in self.steps:
            self.say(f"{name}: finished earlier")
        else:
            self.say(f"{name}: started")
            began = time.monotonic()
            figures = dict(run())
            seconds = time.monotonic() - began
            self.steps[name] = {"seconds": seconds, "figures": figures}
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / RECORD, {"minutes": self.plan.minutes, "steps": self.steps})
            self.say(f"{name}: finished in {seconds:.0f} s")
        return self.figures(name)

    def figures(self, name: str) -> Mapping[str, Any]:
        """Return the figures of a finished step."""
        figures: Mapping[str, Any] = self.steps[name]["figures"]
        return figures
