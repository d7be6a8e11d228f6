"""Check a Helm chart by 40 points: `python -m infra.check.chart CHART -f VALUES`.

Exit status: 0 if no point fails, 1 if one does, 2 if the chart cannot be rendered.
"""

import argparse
import json
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from infra.check.chart import configuration, monitoring, operation, packaging, security
from infra.check.chart.chart import Chart, RefusedError
from infra.check.chart.points import Outcome, Point, Result, judge

GROUPS: dict[str, Sequence[Point]] = {
    "security": security.POINTS,
    "operation": operation.POINTS,
    "configuration": configuration.POINTS,
    "packaging": packaging.POINTS,
    "monitoring": monitoring.POINTS,
}


def check(chart: Chart) -> dict[str, list[Result]]:
    """Return the results of all points by group.

    Raises:
        RefusedError: the chart cannot be rendered with its values.
    """
    return {group: [judge(point, chart) for point in points] for group, points in GROUPS.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="infra.check.chart", description=__doc__)
    parser.add_argument("chart", type=Path, nargs="?", help="folder or packaged chart (.tgz)")
    parser.add_argument("-f", "--values", type=Path, action="append", default=[])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--api-versions", action="append", default=[])
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    parser.add_argument("--list", action="store_true", help="print the points as a table")
    given = parser.parse_args(arguments)
    if given.list:
        print(points_table())
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        if given.chart is not None and given.chart.is_file():
            given.chart = unpacked(given.chart, Path(scratch))
        if given.chart is None or not (given.chart / "Chart.yaml").is_file():
            parser.error("name the folder of a chart, or a packaged chart")
        try:
            results = check(Chart(given.chart, given.values, given.set, given.api_versions))
        except RefusedError as error:
            print(f"the chart cannot be rendered: {error}", file=sys.stderr)
            return 2
    print(as_json(results) if given.json else as_table(results))
    return int(any(item.outcome is Outcome.FAILED for item in flat(results)))


def unpacked(package: Path, scratch: Path) -> Path:
    """Unpack a packaged chart into the folder `scratch` and return its folder there."""
    with tarfile.open(package) as tar:
        tar.extractall(scratch, filter="data")
    return next(path.parent for path in sorted(scratch.glob("*/Chart.yaml")))


def flat(results: dict[str, list[Result]]) -> list[Result]:
    return [item for group in results.values() for item in group]


def count(results: Sequence[Result], outcome: Outcome) -> int:
    return sum(item.outcome is outcome for item in results)


def as_table(results: dict[str, list[Result]]) -> str:
    """Format results as a table for terminals, with the findings below each failed point."""
    lines = []
    for group, items in results.items():
        passed, applicable = (
            count(items, Outcome.PASSED),
            len(items) - count(items, Outcome.NOT_APPLICABLE),
        )
        lines.append(f"\n{group}: {passed} of {applicable}")
        for item in items:
            lines.append(f"  {item.outcome:<15} {item.point.name:<24} {item.point.title}")
            lines += [f"  {'':<15} {'':<24} - {finding}" for finding in item.findings]
    found = flat(results)
    lines.append(
        f"\n{count(found, Outcome.PASSED)} passed, {count(found, Outcome.FAILED)} failed, "
        f"{count(found, Outcome.NOT_APPLICABLE)} not applicable of {len(found)}"
    )
    return "\n".join(lines).lstrip()


def as_json(results: dict[str, list[Result]]) -> str:
    found = flat(results)
    return json.dumps(
        {
            "score": {str(outcome): count(found, outcome) for outcome in Outcome},
            "points": [
                {
                    "group": group,
                    "name": item.point.name,
                    "title": item.point.title,
                    "outcome": item.outcome,
                    "findings": list(item.findings),
                }
                for group, items in results.items()
                for item in items
            ],
        },
        indent=1,
    )


def points_table() -> str:
    """Format all points as a Markdown table."""
    rows = [
        f"| {group} | `{point.name}` | {point.title} | {point.why} | {point.how} |"
        for group, points in GROUPS.items()
        for point in points
    ]
    return "\n".join(
        ["| group | point | rule | why | how it is checked |", "|---|---|---|---|---|", *rows]
    )


if __name__ == "__main__":
    sys.exit(main())
