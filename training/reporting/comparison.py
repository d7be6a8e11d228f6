"""Comparison of two runs: settings that differ, results, and cost.

Stages are paired by name; two single stages are a pair in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import DetailedError
from training.reporting.pages import FIRST, Curves, curves, figure, write_page
from training.reporting.stage import StageRead, duration, read_stages
from training.runtime.context import Sample

TEMPLATE = "comparison.html.jinja"
OWN = ("output_directory", "lineage.")  # fields that differ in every run
MISSING = "-"


class ComparisonError(DetailedError, ValueError):
    """Two runs cannot be compared; the text names them and the reason."""

    reason = "MISMATCH"


@dataclass(frozen=True)
class Row:
    """Row of a table, with a value for each run."""

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class Pair:
    """The same stage of two runs."""

    name: str
    first: StageRead
    second: StageRead

    @property
    def kinds(self) -> list[str]:
        """Return the kinds of both stages, without duplicates; empty if neither has a step."""
        return list(
            dict.fromkeys(read.steps[-1].stage for read in (self.first, self.second) if read.steps)
        )

    @property
    def differences(self) -> list[Row]:
        """Return config fields and data hashes that differ."""
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
        """Return the last figures of both, the most important first."""
        ends = [
            {name: value for step in read.steps for name, value in step.metrics.items()}
            for read in (self.first, self.second)
        ]
        names = [
            *(name for name in FIRST if name in ends[0] | ends[1]),
            *sorted((ends[0] | ends[1]).keys() - {*FIRST}),
        ]
        return [Row(name, *(figure(end.get(name, MISSING)) for end in ends)) for name in names]

    @property
    def costs(self) -> list[Row]:
        """Return the costs of both."""
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
                "tokens per second",
                *(MISSING if speed is None else f"{speed:,.0f}" for speed in speeds),
            ),
        ]

    @property
    def curves(self) -> Curves:
        """Return charts with both runs."""
        names = ("first", "second") if self.first.version == self.second.version else ("", "")
        labels = [
            name or read.version
            for name, read in zip(names, (self.first, self.second), strict=True)
        ]
        return curves(dict(zip(labels, (self.first.course, self.second.course), strict=True)))

    @property
    def samples(self) -> list[tuple[Sample, Sample]]:
        """Return the last samples of both for the same prompts."""
        ends = [
            {sample.prompt: sample for sample in read.samples} for read in (self.first, self.second)
        ]
        return [
            (sample, ends[1][prompt]) for prompt, sample in ends[0].items() if prompt in ends[1]
        ]


def compare(first: Path, second: Path) -> list[Pair]:
    """Return the stages that both runs have.

    Raises:
        ComparisonError: no stage started in a run, or the runs have no stage in common.
    """
    reads = []
    for directory in (first, second):
        found = read_stages(directory)
        if not found:
            raise ComparisonError(
                f"{directory}: no stage started there (no stage.json in this folder or below)",
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
    """Return tables for a terminal."""
    return "\n\n".join("\n".join(_lines(pair)) for pair in pairs)


def write_comparison(pairs: Sequence[Pair], path: Path) -> Path:
    """Write the page of a comparison."""
    return write_page(path, TEMPLATE, {"pairs": pairs})


def flat(config: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """Return config fields by full name, without those that differ in every run."""
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
            # None is a value of the config, unlike a missing field.
            yield Row(name, *("none" if value is None else figure(value) for value in values))


def _lines(pair: Pair) -> Iterator[str]:
    name = pair.name if len(pair.kinds) < 2 else f"different stages, {' | '.join(pair.kinds)}"
    first, second = (f"{read.version} ({read.state_text})" for read in (pair.first, pair.second))
    yield f"{name}: {first} | {second}"
    for title, rows in (
        ("settings that differ", pair.differences),
        ("last figures", pair.figures),
        ("cost", pair.costs),
    ):
        yield f"  {title}{'' if rows else ': none'}"
        wide = max((len(row.name) for row in rows), default=0)
        for row in rows:
            yield f"    {row.name:<{wide}}  {row.first:<20}  {row.second}"
