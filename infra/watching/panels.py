"""Model of a dashboard: units, queries, panels and rows on a common grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

# Width of a dashboard in Grafana.
COLUMNS = 24


class Unit(StrEnum):
    """Unit ids of Grafana."""

    SECONDS = "s"
    BYTES = "bytes"
    PER_SECOND = "cps"
    RATIO = "percentunit"
    COUNT = "short"
    TIME = "dateTimeAsIso"


@dataclass(frozen=True)
class Query:
    """A PromQL expression. The legend may contain labels as {{label}}."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """A panel of lines over time, or of the last values if `now`.

    The description explains how to interpret the panel.

    Args:
        alert: threshold of an alert as ALERT.NAME, drawn as a line, or as the value from which a
            figure is red.
        red_from: value from which a figure is red, if it has no alert with a threshold.
    """

    title: str
    description: str
    unit: Unit
    queries: Sequence[Query]
    now: bool = False
    width: int = 8
    alert: str = ""
    red_from: float | None = None

    @property
    def height(self) -> int:
        return 4 if self.now else 8


@dataclass(frozen=True)
class Row:
    """Panels in a row with a heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Dashboard:
    """A dashboard file. `name` is the file name and the end of the uid in Grafana.

    The first row is the summary.

    Args:
        versions: metric whose versions can be selected; "" for a dashboard without this variable.
    """

    name: str
    title: str
    description: str
    rows: Sequence[Row]
    versions: str = ""


def figure(
    title: str,
    description: str,
    unit: Unit,
    *expressions: str,
    alert: str = "",
    red_from: float | None = None,
) -> Panel:
    """Return a panel of the summary with the last value of each expression."""
    queries = [Query(expression, title) for expression in expressions]
    return Panel(
        *(title, description, unit, queries), now=True, width=4, alert=alert, red_from=red_from
    )


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Return the rate of a counter per second, summed over replicas."""
    selected = f"{metric}{{{where}}}" if where else metric
    return f"sum{f' by ({by})' if by else ''} (rate({selected}[$__rate_interval]))"


def share(metric: str, where: str, by: str = "") -> str:
    """Return the share (0 to 1) of a counter that has these labels.

    The result is empty without events.
    """
    on = f" on ({by})" if by else ""
    return f"{rate(metric, by, where)} /{on} ({rate(metric, by)} > 0)"


def failing_share(metric: str, where: str) -> str:
    """Return the share of a counter that has these labels, 0 if no series has them.

    The result is empty without events.
    """
    return f"({rate(metric, where=where)} or vector(0)) / ({rate(metric)} > 0)"


def quantiles(
    histogram: str, by: str = "", where: str = "", of: Sequence[float] = (0.5, 0.95)
) -> list[Query]:
    """Return quantiles of a histogram of seconds.

    Args:
        by: labels to keep separate.
    """
    labels = ", ".join(("le", *by.split(", "))) if by else "le"
    labels_shown = "".join(f" {{{{{label}}}}}" for label in by.split(", ")) if by else ""
    return [
        Query(
            f"histogram_quantile({q}, {rate(f'{histogram}_bucket', labels, where)})",
            f"p{q * 100:g}{labels_shown}",
        )
        for q in of
    ]
