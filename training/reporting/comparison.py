"""Comparison of runs: settings that differ, results, and cost, the best run first.

The runs of one folder are compared with those of the same kind of stage. Several runs are compared
by the names of their stages; single stages are compared in any case.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from training.errors import DetailedError
from training.reporting.pages import FIRST, Curves, curves, write_page
from training.reporting.stage import StageRead, read_stages
from training.reporting.units import duration, figure, label, quantity, rate, size
from training.runtime.context import Sample

TEMPLATE = "comparison.html.jinja"
OWN = ("output_directory", "lineage.")  # fields that differ in every run
MISSING = "-"
# Figures whose best value is known. The first of RANKING that a run has sorts the runs: held-out
# figures first, and the score of a judge that PPO does not train on before the trained score.
LOWER_IS_BETTER = ("held_out_loss", "bits_per_byte", "loss")
HIGHER_IS_BETTER = (
    *("held_out_accuracy", "gold_score", "score", "accuracy"),
    *("preference_score", "verifiable_score", "reward"),
)
RANKING = (
    *("held_out_accuracy", "held_out_loss", "bits_per_byte"),
    *("gold_score", "score", "accuracy", "loss"),
)
HELD_OUT = RANKING[:3]
# Figures that describe the last step instead of the result.
OF_A_STEP = {"tokens", "tokens_per_second", "memory_bytes", "learning_rate"}
SPLIT = ("seed", "held_out_fraction")  # fields that select the held-out rows, besides the data
DATA = ("data_path", "shards_directory")
LONGEST_CELL = 32  # characters; longer values lose their beginning, which paths share


class ComparisonError(DetailedError, ValueError):
    """Runs cannot be compared; the text names them and the reason."""

    reason = "MISMATCH"


@dataclass(frozen=True)
class Row:
    """Row of a table, with a value for each run, and the places of the best values."""

    name: str
    values: tuple[str, ...]
    best: frozenset[int] = frozenset()

    @property
    def differs(self) -> bool:
        """Return True if the runs have different values."""
        return len(set(self.values)) > 1


@dataclass(frozen=True)
class Comparison:
    """The same stage of several runs.

    Attributes:
        sorted_by: figure by which the runs are sorted, the best first; "" if no run has any.
    """

    name: str
    reads: tuple[StageRead, ...]
    sorted_by: str = ""

    @property
    def kinds(self) -> list[str]:
        """Return the kinds of the stages, without duplicates; empty if none has a step."""
        return list(dict.fromkeys(read.stage for read in self.reads if read.steps))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Return a name for each run: its version, with as many folders as distinguish it."""
        paths = [read.record.output_directory.parts for read in self.reads]
        for count in range(1, max(map(len, paths)) + 1):
            names = tuple("/".join(parts[-count:]) for parts in paths)
            if len(set(names)) == len(names):
                return names
        return tuple(f"{read.version} ({place})" for place, read in enumerate(self.reads, start=1))

    @cached_property
    def differences(self) -> list[Row]:
        """Return config fields and data hashes that differ."""
        records = [read.record for read in self.reads]
        hashes = [
            {f"data: {name}": hashed[:12] for name, hashed in record.data.items()}
            for record in records
        ]
        code = [{"code": record.code_commit[:12]} for record in records]
        return [
            *_different([flat(record.config) for record in records]),
            *_different(hashes),
            *_different(code),
        ]

    @cached_property
    def figures(self) -> list[Row]:
        """Return the last figures that differ, the sorting figure and the most important first."""
        ends = [last_figures(read) for read in self.reads]
        known = {name for end in ends for name in end}
        order = (self.sorted_by, *FIRST, *sorted(known - {*FIRST}))
        names = dict.fromkeys(name for name in order if name in known - OF_A_STEP)
        rows = [
            Row(
                name,
                tuple(quantity(name, end[name]) if name in end else MISSING for end in ends),
                best_places(name, [end.get(name) for end in ends]),
            )
            for name in names
        ]
        return [row for row in rows if row.differs or row.name == self.sorted_by]

    @property
    def costs(self) -> list[Row]:
        """Return the costs that differ."""
        costs = [read.cost for read in self.reads]
        speeds = [cost.tokens_per_second for cost in costs]
        rows = [
            Row("steps", tuple(f"{len(read.steps):,}" for read in self.reads)),
            Row("time", tuple(duration(cost.seconds) for cost in costs)),
            Row("worker time", tuple(duration(cost.worker_seconds) for cost in costs)),
            Row("peak memory", tuple(size(cost.memory_bytes) for cost in costs)),
            Row(
                "tokens per second",
                tuple(MISSING if speed is None else rate(speed) for speed in speeds),
            ),
        ]
        if all(cost.worker_seconds == cost.seconds for cost in costs):
            rows = [row for row in rows if row.name != "worker time"]
        return [row for row in rows if row.differs]

    @property
    def caution(self) -> str:
        """Return a warning if the sorting figure was measured on different rows, or ""."""
        split = [
            row.name
            for row in self.differences
            if row.name in SPLIT or row.name.removeprefix("data: ").endswith(DATA)
        ]
        if self.sorted_by not in HELD_OUT or not split:
            return ""
        return (
            f"{self.sorted_by} is not measured on the same rows: {', '.join(split)} "
            f"{'differs' if len(split) == 1 else 'differ'}"
        )

    @property
    def curves(self) -> Curves:
        """Return charts with a line for each run."""
        courses = [read.course for read in self.reads]
        return curves(dict(zip(self.labels, courses, strict=True)))

    @property
    def samples(self) -> list[tuple[Sample, ...]]:
        """Return the last samples of all runs for the prompts that all have."""
        ends = [{sample.prompt: sample for sample in read.samples} for read in self.reads]
        return [
            tuple(end[prompt] for end in ends)
            for prompt in ends[0]
            if all(prompt in end for end in ends)
        ]


def compare(directories: Sequence[Path], sort: str = "") -> list[Comparison]:
    """Return the comparisons of the stages that several runs have.

    Args:
        directories: runs, or a single folder that contains the runs.
        sort: figure that sorts the runs; "": the first of RANKING.

    Raises:
        ComparisonError: no stage started in a folder, the runs have no stage in common, or no run
            has the figure.
    """
    found = [_stages_of(directory) for directory in directories]
    if len(found) == 1:
        grouped = _by_kind(found[0], directories[0])
    elif all(len(stages) == 1 for stages in found):
        reads = tuple(stages[0] for stages in found)
        grouped = [Comparison(reads[0].record.name, reads)]
    else:
        grouped = _by_name(found, directories)
    if sort and not any(sort in last_figures(read) for one in grouped for read in one.reads):
        names = sorted({name for one in grouped for r in one.reads for name in last_figures(r)})
        raise ComparisonError(
            f"sort: no run has a figure {sort}; the figures are {', '.join(names) or 'none'}",
            field="sort",
            reason="UNKNOWN",
            limit=", ".join(names),
        )
    return [_sorted(one, sort) for one in grouped]


def text_of(comparisons: Sequence[Comparison], columns: int) -> str:
    """Return tables for a terminal of this number of columns."""
    return "\n\n".join("\n".join(_lines(one, columns)) for one in comparisons)


def write_comparison(comparisons: Sequence[Comparison], path: Path) -> Path:
    """Write the page of a comparison."""
    return write_page(path, TEMPLATE, {"comparisons": comparisons})


def flat(
    config: Mapping[str, Any], within: str = "", without: tuple[str, ...] = OWN
) -> dict[str, Any]:
    """Return config fields by full name.

    Args:
        within: prefix of the names.
        without: prefixes of fields to leave out; by default those that differ in every run.
    """
    fields: dict[str, Any] = {}
    for name, value in config.items():
        whole = within + name
        if isinstance(value, Mapping):
            fields |= flat(value, f"{whole}.", without)
        elif not whole.startswith(without):
            fields[whole] = value
    return fields


def last_figures(read: StageRead) -> dict[str, float]:
    """Return the last value of each figure.

    A stage that stopped early exports an earlier state, whose figures are in its manifest.
    """
    last = {name: value for step in read.steps for name, value in step.metrics.items()}
    report = read.output.report if read.output else {}
    return {
        name: reported if isinstance(reported := report.get(name), int | float) else value
        for name, value in last.items()
    }


def best_places(name: str, values: Sequence[float | None]) -> frozenset[int]:
    """Return the places of the best value; none if all are equal or the best is unknown."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if len(finite) < 2 or len(set(finite)) == 1 or name not in LOWER_IS_BETTER + HIGHER_IS_BETTER:
        return frozenset()
    best = max(finite) if name in HIGHER_IS_BETTER else min(finite)
    return frozenset(place for place, value in enumerate(values) if value == best)


def ranked(name: str, values: Sequence[float | None]) -> list[int]:
    """Return the places of the values, the best first; missing and infinite values come last."""
    sign = -1 if name in HIGHER_IS_BETTER else 1

    def key(place: int) -> float:
        value = values[place]
        return sign * value if value is not None and math.isfinite(value) else math.inf

    return sorted(range(len(values)), key=key)


def _stages_of(directory: Path) -> list[StageRead]:
    stages = read_stages(directory)
    if not stages:
        raise ComparisonError(
            f"{directory}: no stage started there (no stage.json in this folder or below)",
            field=str(directory),
            reason="EMPTY",
        )
    return stages


def _by_kind(stages: Sequence[StageRead], directory: Path) -> list[Comparison]:
    """Group the stages of a folder by kind; runs without a step have none and are left out."""
    kinds: dict[str, list[StageRead]] = {}
    for read in stages:
        if read.steps:
            kinds.setdefault(read.stage, []).append(read)
    several = [Comparison(kind, tuple(reads)) for kind, reads in kinds.items() if len(reads) > 1]
    if not several:
        raise ComparisonError(
            f"{directory}: has {', '.join(kinds) or 'no step of any stage'}; a comparison needs "
            "two runs of the same kind of stage",
            field=str(directory),
            reason="TOO_SMALL",
            limit="at least 2 runs",
        )
    return several


def _by_name(found: Sequence[Sequence[StageRead]], directories: Sequence[Path]) -> list[Comparison]:
    """Group the stages of several runs by name, in the order of the first run."""
    named: dict[str, list[StageRead]] = {}
    for read in (read for stages in found for read in stages):
        named.setdefault(read.record.name, []).append(read)
    shared = [Comparison(name, tuple(reads)) for name, reads in named.items() if len(reads) > 1]
    if not shared:
        texts = [
            f"{directory} has {', '.join(read.record.name for read in stages)}"
            for directory, stages in zip(directories, found, strict=True)
        ]
        raise ComparisonError(
            f"{'; '.join(texts)}; no stage is in two of them",
            field=str(directories[-1]),
            reason="MISMATCH",
            limit=", ".join(read.record.name for read in found[0]),
        )
    return shared


def _sorted(one: Comparison, sort: str) -> Comparison:
    """Return the comparison with the best run first; runs without the figure come last."""
    ends = [last_figures(read) for read in one.reads]
    name = next((name for name in (sort, *RANKING) if any(name in end for end in ends)), "")
    order = ranked(name, [end.get(name) for end in ends])
    return replace(one, reads=tuple(one.reads[place] for place in order), sorted_by=name)


def _different(fields: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    for name in dict.fromkeys(name for some in fields for name in some):
        values = [some.get(name, MISSING) for some in fields]
        if any(value != values[0] for value in values):
            # None is a value of the config, unlike a missing field.
            yield Row(name, tuple("none" if v is None else figure(v) for v in values))


def _lines(one: Comparison, columns: int) -> Iterator[str]:
    name = one.name if len(one.kinds) < 2 else f"different stages, {' | '.join(one.kinds)}"
    rank = f", the best {label(one.sorted_by)} first (* is the best value)"
    yield f"{name}: {len(one.reads)} runs{rank if one.sorted_by else ''}"
    for run, read in zip(one.labels, one.reads, strict=True):
        if read.state_text != "finished":
            yield f"  {run}: {read.state_text}"
    if one.caution:
        yield f"  {one.caution}"
    if not one.differences:
        yield "  settings that differ: none"
    first, others = one.figures[:1], one.figures[1:]
    yield from table(one.labels, [*first, *one.differences, *others, *one.costs], columns)


def table(labels: Sequence[str], rows: Sequence[Row], columns: int) -> Iterator[str]:
    """Yield a line for each run; rows that exceed the width follow in further tables."""
    runs = ["", *labels]
    width = max(map(len, runs))
    while rows:
        used, taken = 2 + width, list[list[str]]()
        for row in rows:
            cells = [row.name, *_cells(row)]
            used += 2 + max(map(len, cells))
            if taken and used > columns:
                break
            taken.append(cells)
        rows = rows[len(taken) :]
        for run, *cells in zip(runs, *taken, strict=True):
            padded = [
                f"{cell:<{max(map(len, column))}}"
                for cell, column in zip(cells, taken, strict=True)
            ]
            yield f"  {run:<{width}}  {'  '.join(padded)}".rstrip()


def _cells(row: Row) -> Iterable[str]:
    for place, value in enumerate(row.values):
        short = value if len(value) <= LONGEST_CELL else f"…{value[-LONGEST_CELL + 1 :]}"
        yield f"{short} *" if place in row.best else short
