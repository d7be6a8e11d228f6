"""What a dashboard is made of, and how all panels are alike: units, legends, the data source as a
variable, one grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

# Grafana's own width of a dashboard.
COLUMNS = 24


class Unit(StrEnum):
    """Grafana's ids of units."""

    SECONDS = "s"
    BYTES = "bytes"
    PER_SECOND = "cps"
    RATIO = "percentunit"
    COUNT = "short"
    TIME = "dateTimeAsIso"


@dataclass(frozen=True)
class Query:
    """An expression of PromQL; the legend may name labels as {{label}}."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """Lines over time; or only the last values, if `now`. The description says what a person should
    think of it.
    """

    title: str
    description: str
    unit: Unit
    queries: Sequence[Query]
    now: bool = False
    width: int = 8

    @property
    def height(self) -> int:
        return 4 if self.now else 8


@dataclass(frozen=True)
class Row:
    """Panels side by side under one heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Dashboard:
    """One file. `name` is its file's name and its uid in Grafana."""

    name: str
    title: str
    description: str
    rows: Sequence[Row]


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Events a second, of all replicas together."""
    selected = f"{metric}{{{where}}}" if where else metric
    return f"sum{f' by ({by})' if by else ''} (rate({selected}[$__rate_interval]))"


def share(metric: str, where: str, by: str = "") -> str:
    """The part of a counter that has these labels: 0 to 1. Nothing where nothing happened."""
    on = f" on ({by})" if by else ""
    return f"{rate(metric, by, where)} /{on} ({rate(metric, by)} > 0)"


def quantiles(
    histogram: str, by: str = "", where: str = "", of: Sequence[float] = (0.5, 0.95)
) -> list[Query]:
    """Quantiles of a histogram of seconds; `by` names labels to keep apart."""
    labels = ", ".join(("le", *by.split(", "))) if by else "le"
    kept = "".join(f" {{{{{label}}}}}" for label in by.split(", ")) if by else ""
    return [
        Query(
            f"histogram_quantile({q}, {rate(f'{histogram}_bucket', labels, where)})",
            f"p{q * 100:g}{kept}",
        )
        for q in of
    ]
