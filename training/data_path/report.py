"""Report page of a corpus: funnel, languages, lengths, hosts, dropped examples, cost by stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.corpus.document import Stage
from training.data_path.summary import Summary
from training.reporting.pages import write_page

TEMPLATE = "corpus.html.jinja"
SHOWN_HOSTS = 20
UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart.

    Attributes:
        share: of the largest value, 0 to 1.
    """

    name: str
    value: str
    share: float
    note: str = ""


def write_report(
    path: Path, name: str, summary: Summary, parts: Sequence[Mapping[str, Any]]
) -> Path:
    """Write the page.

    Args:
        name: name of the corpus.
        parts: figures of the input files, from `Part.figures`.
    """
    rules = [
        {"stage": stage, "rule": rule or "–", **counts}
        for stage in Stage
        for rule, counts in sorted(
            summary.stages.get(stage, {}).items(), key=lambda entry: -entry[1]["documents"]
        )
        if stage is not Stage.KEPT
    ]
    facts = {
        "name": name,
        "summary": summary,
        "kept": summary.sizes(Stage.KEPT),
        "funnel": list(_funnel(summary)),
        "rules": rules,
        "languages": _bars(
            {name: counts["documents"] for name, counts in summary.languages.items()}
        ),
        "lengths": [
            Bar(f"{size(2 ** int(key))} to {size(2 ** (int(key) + 1))}", f"{count:,}", share)
            for key, count, share in _shares(
                sorted(summary.lengths.items(), key=lambda entry: int(entry[0]))
            )
        ],
        "licences": _bars(summary.licences),
        "hosts": _bars(summary.hosts)[:SHOWN_HOSTS],
        "sources": sorted(summary.sources.items()),
        "redacted": _bars(summary.redacted),
        "examples": summary.examples,
        "cost": _cost(parts),
        "size": size,
    }
    return write_page(path, TEMPLATE, facts)


def size(count: float) -> str:
    """Return a number of bytes with a decimal unit."""
    for unit in UNITS[:-1]:
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} {UNITS[-1]}"


def _funnel(summary: Summary) -> Iterable[Bar]:
    """Yield what remains after each stage."""
    remaining = summary.items
    yield Bar("records", f"{remaining:,}", 1.0)
    for stage in Stage:
        dropped = summary.sizes(stage)["documents"]
        if stage is not Stage.KEPT and dropped:
            remaining -= dropped
            share = remaining / max(1, summary.items)
            yield Bar(f"after {stage}", f"{remaining:,}", share, f"−{dropped:,}")


def _bars(counts: Mapping[str, int]) -> list[Bar]:
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return [Bar(name or "unknown", f"{count:,}", share) for name, count, share in _shares(ordered)]


def _shares(counts: Sequence[tuple[str, int]]) -> list[tuple[str, int, float]]:
    largest = max((count for _, count in counts), default=1)
    return [(name, count, count / largest) for name, count in counts]


def _cost(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return processor time by stage, and the rate and memory of the first phase."""
    seconds: dict[str, float] = {}
    for part in parts:
        for stage, value in part["seconds"].items():
            seconds[stage] = seconds.get(stage, 0.0) + value
    total = sum(seconds.values())
    items, read = (sum(part[name] for part in parts) for name in ("items", "read_bytes"))
    return {
        "stages": [
            Bar(
                stage,
                f"{seconds[stage]:.1f} s",
                seconds[stage] / total,
                f"{items / seconds[stage]:,.0f} records/s",
            )
            for stage in Stage
            if seconds.get(stage)
        ],
        "records_per_second": items / total if total else 0.0,
        "bytes_per_second": read / total if total else 0.0,
        "largest_bytes": max((part["largest_bytes"] for part in parts), default=0),
    }
