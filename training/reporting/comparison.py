"""Two runs side by side: what was asked of them otherwise, what came of it, and what it took.
Stages are paired by name; two single ones are a pair whatever they are called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import DetailedError
from training.reporting.curves import FIRST, Curves, curves
from training.reporting.pages import figure, write_page
from training.reporting.stage import StageRead, duration, read_stages
from training.stages.context import Sample

TEMPLATE = "comparison.html.jinja"
OWN = ("output_directory", "lineage.")  # of a run, whatever it does
MISSING = "-"


class ComparisonError(DetailedError, ValueError):
    """Two runs cannot be compared; the text says which and why."""

    reason = "MISMATCH"


@dataclass(frozen=True)
class Row:
    """One thing of both runs, in words."""

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class Pair:
    """The same stage of two runs. figures: each at its last step. differences: of config and data."""

    name: str
    first: StageRead
    second: StageRead

    @property
    def kinds(self) -> list[str]:
        """What their steps say that they are; more than one: little can be compared. None where
        neither has a step yet.
        """
        return list(
            dict.fromkeys(read.steps[-1].stage for read in (self.first, self.second) if read.steps)
        )

    @property
    def differences(self) -> list[Row]:
        """Fields that have another value, and data whose hash is another."""
        rows = list(_different(flat(self.first.record.config), flat(self.second.record.config)))
        hashes = [
            {name: hashed[:12] for name, hashed in r.record.data.items()}
            for r in (self.first, self.second)
        ]
        rows += [Row(f"data: {row.name}", row.first, row.second) for row in _different(*hashes)]
        if self.first.record.code_commit != self.second.record.code_commit:
            rows.append(
                Row("code", self.first.record.code_commit[:12], self.second.record.code_commit[:12])
            )
        return rows

    @property
    def figures(self) -> list[Row]:
        """What people ask for first comes first."""
        ends = [_last(read) for read in (self.first, self.second)]
        names = [
            *(name for name in FIRST if name in ends[0] | ends[1]),
            *sorted((ends[0] | ends[1]).keys() - {*FIRST}),
        ]
        return [Row(name, *(figure(end.get(name, MISSING)) for end in ends)) for name in names]

    @property
    def costs(self) -> list[Row]:
        """Both, where both have it."""
        reads = (self.first, self.second)
        rows = [
            Row("steps", *(f"{len(read.steps):,}" for read in reads)),
            Row("time", *(duration(read.cost.seconds) for read in reads)),
            Row("worker time", *(duration(read.cost.worker_seconds) for read in reads)),
            Row(
                "peak memory of the first worker",
                *(f"{read.cost.memory_bytes / 2**20:,.0f} MiB" for read in reads),
            ),
        ]
        speeds = [read.cost.tokens_per_second for read in reads]
        return [
            *rows,
            Row(
                "tokens a second",
                *(MISSING if speed is None else f"{speed:,.0f}" for speed in speeds),
            ),
        ]

    @property
    def curves(self) -> Curves:
        """Both runs in each chart."""
        names = ("first", "second") if self.first.version == self.second.version else ("", "")
        labels = [
            name or read.version
            for name, read in zip(names, (self.first, self.second), strict=True)
        ]
        return curves(dict(zip(labels, (self.first.course, self.second.course), strict=True)))

    @property
    def samples(self) -> list[tuple[Sample, Sample]]:
        """What both wrote last to the same beginning."""
        ends = [
            {sample.prompt: sample for sample in read.samples} for read in (self.first, self.second)
        ]
        return [
            (sample, ends[1][prompt]) for prompt, sample in ends[0].items() if prompt in ends[1]
        ]


def compare(first: Path, second: Path) -> list[Pair]:
    """The stages that both have.

    Raises:
        ComparisonError: no stage began in one of them, or they have none in common.
    """
    reads = []
    for directory in (first, second):
        found = read_stages(directory)
        if not found:
            raise ComparisonError(
                f"{directory}: no stage began there (no stage.json in it or below)",
                field=str(directory),
                reason="EMPTY",
            )
        reads.append(found)
    if len(reads[0]) == len(reads[1]) == 1:
        return [Pair(reads[0][0].record.name, reads[0][0], reads[1][0])]
    others = {read.record.name: read for read in reads[1]}
    pairs = [
        Pair(read.record.name, read, others[read.record.name])
        for read in reads[0]
        if read.record.name in others
    ]
    if not pairs:
        names = [", ".join(read.record.name for read in found) for found in reads]
        raise ComparisonError(
            f"{first}: has {names[0]}, {second}: has {names[1]}; no stage is in both",
            field=str(second),
            reason="MISMATCH",
            limit=names[0],
        )
    return pairs


def text_of(pairs: Sequence[Pair]) -> str:
    """Tables for a terminal."""
    return "\n\n".join("\n".join(_lines(pair)) for pair in pairs)


def write_comparison(pairs: Sequence[Pair], path: Path) -> Path:
    """The page."""
    return write_page(path, TEMPLATE, {"pairs": pairs})


def flat(config: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """A config's fields by their whole names, those of the run itself left out."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        whole = within + name
        if isinstance(value, Mapping):
            fields |= flat(value, f"{whole}.")
        elif not whole.startswith(OWN):
            fields[whole] = value
    return fields


def _different(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Row]:
    for name in dict.fromkeys([*first, *second]):
        values = [fields.get(name, MISSING) for fields in (first, second)]
        if values[0] != values[1]:
            yield Row(
                name, *("none" if value is None else figure(value) for value in values)
            )  # null: it was asked so


def _last(read: StageRead) -> dict[str, float]:
    """Each figure's newest value."""
    return {name: value for step in read.steps for name, value in step.metrics.items()}


def _lines(pair: Pair) -> Iterator[str]:
    name = pair.name if len(pair.kinds) < 2 else f"different stages, {' | '.join(pair.kinds)}"
    yield f"{name}: {pair.first.version} ({pair.first.standing}) | {pair.second.version} ({pair.second.standing})"
    for title, rows in (
        ("asked otherwise", pair.differences),
        ("at the end", pair.figures),
        ("took", pair.costs),
    ):
        yield f"  {title}{'' if rows else ': nothing'}"
        wide = max((len(row.name) for row in rows), default=0)
        for row in rows:
            yield f"    {row.name:<{wide}}  {row.first:<20}  {row.second}"
