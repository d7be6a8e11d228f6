"""Points of the checklist and their results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from infra.check.chart.chart import Chart

Findings = Sequence[str]
SHOWN = 12


class Outcome(StrEnum):
    """Result of a point for a chart."""

    PASSED = "pass"
    FAILED = "fail"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Point:
    """One rule of the checklist.

    Args:
        name: stable identifier.
        title: the rule as one sentence.
        why: what happens without it.
        check: returns what breaks the rule, or None if the chart has nothing to which the rule
            applies. Its docstring states how the point is checked.
    """

    name: str
    title: str
    why: str
    check: Callable[[Chart], Findings | None]

    @property
    def how(self) -> str:
        return " ".join((self.check.__doc__ or "").split())


@dataclass(frozen=True)
class Result:
    """Outcome of a point, with the objects, values or files that break it."""

    point: Point
    outcome: Outcome
    findings: Findings


def judge(point: Point, chart: Chart) -> Result:
    """Check a point of a chart.

    Raises:
        RefusedError: the chart cannot be rendered with its values.
    """
    found = point.check(chart)
    if found is None:
        return Result(point, Outcome.NOT_APPLICABLE, ())
    unique = list(dict.fromkeys(found))
    if len(unique) > SHOWN:
        unique = [*unique[:SHOWN], f"and {len(unique) - SHOWN} more"]
    return Result(point, Outcome.FAILED if unique else Outcome.PASSED, unique)
