"""report.html of a stage, built from its directory during training, after the end or a failure.

The cost is the sum over all starts, including steps that were lost by a kill, because they were
paid for.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from training.artifacts.manifest import Manifest, finished_manifest
from training.errors import ConfigError
from training.progress_log import (
    PROGRESS,
    SAMPLES,
    Effort,
    Line,
    each_once,
    read_lines,
    read_samples,
)
from training.reporting.pages import curves, write_page
from training.reporting.units import duration, label, quantity, rate, size
from training.reporting.warnings import warnings_of
from training.runtime.context import Progress, Sample
from training.stage_record import RECORD, StageRecord, read_failure, read_record

_BOUND = "bound of the 95 % interval, with prompts (not pairs) as independent observations"
EXPLANATIONS = {
    "held_out_accuracy_low": _BOUND,
    "held_out_accuracy_high": _BOUND,
    "kl": "nats per response, estimated from one sampled answer per prompt; may be below 0",
    "answers_unsampled": "rows without `served`; the sampled ids are unknown, so the text is used",
    "answers_unfit": "rows whose `served` differs from the text under this tokenizer; "
    "the text is used",
}
_NOISE = "no pair was judged twice; set it with --set label_noise=0.1"
UNKNOWN = {"label_noise": _NOISE, "label_noise_ceiling": _NOISE}


logger = logging.getLogger(__name__)

REPORT = "report.html"
TEMPLATE = "stage.html.jinja"
MOST_SAMPLED_STEPS, MOST_SAMPLES = 12, 40  # samples per prompt; prompts that occur once
PRICE_VARIABLE = "TW_TRAINING_DOLLARS_PER_WORKER_HOUR"
TOKENS = "tokens"


@dataclass(frozen=True)
class Cost:
    """Cost of a stage over all its starts.

    Attributes:
        tokens: None if the stage does not count tokens.
        repeated_steps: steps that were repeated after a kill.
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
        """Return the cost at a price per worker hour."""
        return None if price is None else self.worker_seconds / 3600 * price


@dataclass(frozen=True)
class StageRead:
    """Content of a stage's directory.

    Attributes:
        steps: each step once.
        output: None until the stage has ended.
        failure: error of a stage without output, or "".
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
        """Return the kind of the stage from its steps; "" before the first step."""
        return self.steps[-1].stage.replace("_", " ") if self.steps else ""

    @property
    def course(self) -> list[Progress]:
        """Return the steps, preceded by the measurements before training.

        These are figures that the manifest also has with the suffix `_before`.
        """
        report = self.output.report if self.output else {}
        known = {name: report.get(f"{name}_before") for step in self.steps for name in step.metrics}
        before = {name: value for name, value in known.items() if value is not None}
        start = [Progress(self.stage, 0, self.steps[0].total_steps, before)] if before else []
        return [*start, *self.steps]

    @property
    def version(self) -> str:
        """Return the version of the output."""
        return self.record.output_directory.name

    @property
    def warnings(self) -> list[str]:
        """Return warnings about the figures of the stage, a line each."""
        return warnings_of(self.output.report if self.output else {}, self.steps)

    @property
    def state_text(self) -> str:
        """Describe the state of the stage."""
        if self.output is not None:
            return str(self.output.report.get("stopped_because", "")) or "finished"
        if self.failure:
            after = f" after step {self.steps[-1].step}" if self.steps else ""
            return f"failed{after}: {self.failure}"
        if not self.steps:
            return "no step yet"
        return f"not finished: step {self.steps[-1].step} of {self.steps[-1].total_steps}"


def read_stage(directory: Path) -> StageRead | None:
    """Read the directory of a stage; None if no stage started there."""
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
    """Read all stages in a directory, at most three levels deep, in order of their start.

    The directory may be that of a stage, of a run of the loop, or of a recipe.
    """
    found = {
        path.parent
        for depth in ("", "*/", "*/*/", "*/*/*/")
        for path in directory.glob(depth + RECORD)
    }
    read = [stage for path in sorted(found) if (stage := read_stage(path)) is not None]
    return sorted(read, key=lambda stage: stage.record.starts[0].time)


def warning_lines(directory: Path) -> list[str]:
    """Return the warnings of a stage, for the terminal."""
    read = read_stage(directory)
    return [f"warning: {text}" for text in read.warnings] if read else []


def write_stage_page(directory: Path, price: float | None = None) -> Path | None:
    """Build the page of a stage; None if no stage started there.

    Args:
        price: dollars per worker hour; defaults to TW_TRAINING_DOLLARS_PER_WORKER_HOUR.

    Raises:
        ValueError: the variable is not a valid number.
    """
    read = read_stage(directory)
    if read is None:
        return None
    facts = {
        "read": read,
        "record": read.record,
        "warnings": read.warnings,
        "took": cost_rows(read, price if price is not None else price_here()),
        "curves": curves({read.record.name: read.course}),
        "samples": _over_time(read.samples),
        "changed": len({start.config_sha256 for start in read.record.starts}) > 1,
        "made": report_rows(read.output.report) if read.output else {},
        "config": json.dumps(read.record.config, indent=1),
    }
    return write_page(directory / REPORT, TEMPLATE, facts)


@contextmanager
def pages_at_end(directories: Sequence[Path]) -> Iterator[None]:
    """Write the page of each stage after the block, even after an exception."""
    try:
        yield
    finally:
        for directory in directories:
            try:
                write_stage_page(directory)
            except Exception:  # a failed page must not hide the result or the error of the run
                logger.exception(
                    "page of %s not written; `thumbwheel train report` retries",
                    directory.name,
                )


def report_rows(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of a manifest as text, with explanations of some.

    Empty values are omitted.
    """
    rows = {}
    for name, value in report.items():
        meaning = (UNKNOWN if value is None else EXPLANATIONS).get(name, "")
        if value != "":
            rows[label(name)] = quantity(name, value) + (f" ({meaning})" if meaning else "")
    return rows


def cost_rows(read: StageRead, price: float | None) -> dict[str, str]:
    """Return the rows of the cost table."""
    cost = read.cost
    rows = {
        "steps": f"{len(read.steps):,}"
        + (f", {cost.repeated_steps} repeated" if cost.repeated_steps else ""),
        "time": duration(cost.seconds),
        "time per step": duration(cost.seconds / (len(read.steps) + cost.repeated_steps))
        if read.steps
        else "unknown",
        "worker time": duration(cost.worker_seconds),
        "processor time of the first worker": duration(cost.processor_seconds),
        "peak memory of the first worker": size(cost.memory_bytes),
    }
    if cost.tokens is not None:
        rows["tokens"] = f"{cost.tokens:,.0f}"
    if cost.tokens_per_second is not None:
        rows["tokens per second, including time between steps"] = rate(cost.tokens_per_second)
    if (dollars := cost.dollars(price)) is not None:
        rows["cost"] = f"${dollars:,.2f} at ${price:g} per worker hour"
    return rows


def cost_of(lines: Sequence[Line]) -> Cost:
    """Return the total cost of all starts.

    The effort of each start counts from 0, so its last line has its total. A line with less time
    than the line before belongs to a new start.
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
    """Return the price per worker hour from the environment, or None.

    Raises:
        ConfigError: the variable is not a valid price.
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
            f"{PRICE_VARIABLE}: {text!r} is not a price per worker hour in dollars",
            field=PRICE_VARIABLE,
            reason="OUT_OF_RANGE",
            limit="at least 0 and finite",
        )
    return price


def _over_time(samples: Sequence[Sample]) -> list[tuple[str, Sequence[Sample]]]:
    """Group samples by prompt, in order of the prompts and steps.

    Prompts with a single sample are grouped under "", because policies sample other prompts in each
    update.
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
    """Return at most `most` samples, including the first and the last."""
    if len(written) <= most:
        return written
    return [written[round(place * (len(written) - 1) / (most - 1))] for place in range(most)]
