"""report.html of one stage's run, built from what lies in its directory: while it learns, when it
ended, and where it failed.

What it took is added up over every time that it was begun, steps that were lost to a kill included:
they were paid for.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from training.cluster.failure import read_failure
from training.cluster.progress_log import PROGRESS, Effort, Line, each_once, read_lines
from training.cluster.sample_log import SAMPLES, read_samples
from training.cluster.stage_record import RECORD, StageRecord, read_record
from training.errors import ConfigError
from training.manifest import Manifest
from training.reporting.curves import curves
from training.reporting.glossary import MEANINGS, UNKNOWN
from training.reporting.pages import figure, write_page
from training.rl.alarms import has_no_signal
from training.stages.artifact import finished_manifest
from training.stages.context import Progress, Sample

REPORT = "report.html"
TEMPLATE = "stage.html.jinja"
MOST_SAMPLED_STEPS, MOST_SAMPLES = 12, 40  # of a prompt; of prompts that came once
PRICE_VARIABLE = "TW_TRAINING_DOLLARS_PER_WORKER_HOUR"
TOKENS = "tokens"


@dataclass(frozen=True)
class Cost:
    """What a run took, all its starts together. tokens: None where the stage counts none.
    repeated_steps: taken again after a kill.
    """

    seconds: float
    worker_seconds: float
    processor_seconds: float
    memory_bytes: float
    tokens: float | None
    repeated_steps: int

    @property
    def tokens_per_second(self) -> float | None:
        return None if self.tokens is None or self.seconds == 0 else self.tokens / self.seconds

    def dollars(self, price: float | None) -> float | None:
        """At so much for a worker's hour."""
        return None if price is None else self.worker_seconds / 3600 * price


@dataclass(frozen=True)
class StageRead:
    """A stage's directory, read. steps: each once. output: None until the stage has ended. failure:
    why it ended without one, or "".
    """

    directory: Path
    record: StageRecord
    steps: Sequence[Progress]
    samples: Sequence[Sample]
    cost: Cost
    output: Manifest | None
    failure: str = ""

    @property
    def stage(self) -> str:
        """What it is, as its steps say; "" before the first of them."""
        return self.steps[-1].stage.replace("_", " ") if self.steps else ""

    @property
    def course(self) -> list[Progress]:
        """The steps, after one for what was measured before the first: figures of which the
        manifest tells the value `before` too.
        """
        report = self.output.report if self.output else {}
        known = {name: report.get(f"{name}_before") for step in self.steps for name in step.metrics}
        before = {name: value for name, value in known.items() if value is not None}
        start = [Progress(self.stage, 0, self.steps[0].total_steps, before)] if before else []
        return [*start, *self.steps]

    @property
    def version(self) -> str:
        """What it makes."""
        return self.record.output_directory.name

    @property
    def standing(self) -> str:
        """How far it is, in words."""
        if self.output is not None:
            return str(self.output.report.get("stopped_because", "")) or "finished"
        if self.failure:
            return f"failed{f' after step {self.steps[-1].step}' if self.steps else ''}: {self.failure}"
        if not self.steps:
            return "no step yet"
        return f"not finished: step {self.steps[-1].step} of {self.steps[-1].total_steps}"


def read_stage(directory: Path) -> StageRead | None:
    """None where no stage began."""
    record = read_record(directory)
    if record is None:
        return None
    lines = read_lines(directory / PROGRESS)
    return StageRead(
        directory=directory,
        record=record,
        steps=each_once(lines),
        samples=read_samples(directory / SAMPLES),
        cost=cost_of(lines),
        output=finished_manifest(record.output_directory),
        failure=read_failure(directory),
    )


def read_stages(directory: Path) -> list[StageRead]:
    """Of a directory that is a stage's, or that holds some, at most three levels below (a loop's
    run, a recipe's folder): as they began.
    """
    found = {
        path.parent
        for depth in ("", "*/", "*/*/", "*/*/*/")
        for path in directory.glob(depth + RECORD)
    }
    read = [stage for path in sorted(found) if (stage := read_stage(path)) is not None]
    return sorted(read, key=lambda stage: stage.record.starts[0].time)


def write_stage_page(directory: Path, price: float | None = None) -> Path | None:
    """Build the page; None where no stage began.

    Args:
        price: dollars for a worker's hour; else what TW_TRAINING_DOLLARS_PER_WORKER_HOUR says, if
            anything.

    Raises:
        ValueError: the variable is no such number.
    """
    read = read_stage(directory)
    if read is None:
        return None
    facts = {
        "read": read,
        "record": read.record,
        "untaught": sum(has_no_signal(step.metrics) for step in read.steps),
        "took": took(read, price if price is not None else price_here()),
        "curves": curves({read.record.name: read.course}),
        "samples": _over_time(read.samples),
        "changed": len({start.config_sha256 for start in read.record.starts}) > 1,
        "made": made(read.output.report) if read.output else {},
        "config": json.dumps(read.record.config, indent=1),
    }
    return write_page(directory / REPORT, TEMPLATE, facts)


def made(report: Mapping[str, Any]) -> dict[str, str]:
    """The manifest's figures in words, what they mean beside those that are often misread; what is
    empty says nothing.
    """
    rows = {}
    for name, value in report.items():
        meaning = (UNKNOWN if value is None else MEANINGS).get(name, "")
        if value != "":
            rows[name.replace("_", " ")] = figure(value) + (f" ({meaning})" if meaning else "")
    return rows


def took(read: StageRead, price: float | None) -> dict[str, str]:
    """Rows of the table of costs, in words."""
    cost = read.cost
    rows = {
        "steps": f"{len(read.steps):,}"
        + (f", {cost.repeated_steps} taken again" if cost.repeated_steps else ""),
        "time": duration(cost.seconds),
        "time a step": duration(cost.seconds / (len(read.steps) + cost.repeated_steps))
        if read.steps
        else "unknown",
        "worker time": duration(cost.worker_seconds),
        "processor time of the first worker": duration(cost.processor_seconds),
        "peak memory of the first worker": f"{cost.memory_bytes / 2**20:,.0f} MiB",
    }
    if cost.tokens is not None:
        rows["tokens"] = f"{cost.tokens:,.0f}"
    if cost.tokens_per_second is not None:
        rows["tokens a second, all that is between steps included"] = (
            f"{cost.tokens_per_second:,.0f}"
        )
    if (dollars := cost.dollars(price)) is not None:
        rows["cost"] = f"${dollars:,.2f} at ${price:g} a worker's hour"
    return rows


def cost_of(lines: Sequence[Line]) -> Cost:
    """Each start counts up from 0, so what it took is its last line's; where less has passed than
    on the line before, another begins.
    """
    starts = [[line.effort for line in lines[:1]]]
    for before, line in pairwise(lines):
        if line.effort.elapsed_seconds < before.effort.elapsed_seconds:
            starts.append([])
        starts[-1].append(line.effort)
    ends = [start[-1] for start in starts if start] or [Effort()]
    counted = [line.progress.metrics[TOKENS] for line in lines if TOKENS in line.progress.metrics]
    return Cost(
        seconds=sum(end.elapsed_seconds for end in ends),
        worker_seconds=sum(end.elapsed_seconds * end.workers for end in ends),
        processor_seconds=sum(end.processor_seconds for end in ends),
        memory_bytes=max(end.memory_bytes for end in ends),
        tokens=sum(counted) if counted else None,
        repeated_steps=len(lines) - len({line.progress.step for line in lines}),
    )


def price_here() -> float | None:
    """Dollars for a worker's hour, as the variable says.

    Raises:
        ConfigError: it says what is none.
    """
    text = os.environ.get(PRICE_VARIABLE, "")
    if not text:
        return None
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not 0 <= price < math.inf:
        raise ConfigError(
            f"{PRICE_VARIABLE}: {text!r} is not a price of a worker's hour in dollars",
            field=PRICE_VARIABLE,
            reason="OUT_OF_RANGE",
            limit="at least 0 and finite",
        )
    return price


def duration(seconds: float) -> str:
    """As people say it."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _over_time(samples: Sequence[Sample]) -> list[tuple[str, Sequence[Sample]]]:
    """By prompt, in the prompts' order: what was written to it, from the first step to the last.
    Prompts that came once, as policies draw other ones in each update, stand together under "".
    """
    by_prompt: dict[str, list[Sample]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt, []).append(sample)
    once = [written[0] for written in by_prompt.values() if len(written) == 1]
    often = [
        (prompt, thinned(written, MOST_SAMPLED_STEPS))
        for prompt, written in by_prompt.items()
        if len(written) > 1
    ]
    return [*often, ("", thinned(once, MOST_SAMPLES))] if once else often


def thinned(written: Sequence[Sample], most: int) -> Sequence[Sample]:
    """So many of them, from the first to the last."""
    if len(written) <= most:
        return written
    return [written[round(place * (len(written) - 1) / (most - 1))] for place in range(most)]
