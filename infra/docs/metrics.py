"""Generate docs/metrics.md: every metric of the services, parsed from the code, and every alert.

`--check` compares and writes nothing. The parser finds calls like `Counter("thumbwheel_…",
"Description.", ["label"])`, so the code must contain each name as a literal.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.docs.output import write_or_compare
from infra.watching.rules import severities, thresholds

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "metrics.md"
PREFIX = "thumbwheel_"
ALERTS_HEAD = """
## Alerts

Thresholds with their defaults, which `monitoring.rules.thresholds.ALERT.NAME` of the chart changes;
`for` is the time until the alert fires. Each alert has a page in [runbooks](runbooks/README.md).

| alert | severity | thresholds |
|---|---|---|
"""
KINDS = ("counter", "gauge", "histogram")
HEAD = """# Metrics

Generated from the code by `python -m infra.docs.metrics`; `make check` compares. Every service
serves its metrics on its metrics port, the predictor on its HTTP port. Labels contain neither texts
of users nor ids of persons, conversations or messages. Dashboards and alerts: `infra/watching`.
"""


@dataclass(frozen=True)
class Metric:
    """A metric as declared in the code."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...]
    service: str


def main() -> None:
    write_or_compare(PAGE, page(), "docs/metrics.md is stale: run python -m infra.docs.metrics")


def page() -> str:
    """Return the whole page with a table per service, and one of the alerts."""
    found = sorted(
        metrics(), key=lambda metric: (metric.service != "chassis", metric.service, metric.name)
    )
    parts = [HEAD]
    for service in dict.fromkeys(metric.service for metric in found):
        title = "every service" if service == "chassis" else service
        rows = "".join(
            f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} "
            f"| {one.text} |\n"
            for one in found
            if one.service == service
        )
        parts.append(f"\n## {title}\n\n| metric | kind | labels | |\n|---|---|---|---|\n{rows}")
    return "".join((*parts, ALERTS_HEAD, *_alert_rows()))


def _alert_rows() -> Iterator[str]:
    severity = severities()
    for alert, names in thresholds().items():
        shown = ", ".join(f"`{name}: {value}`" for name, value in names.items())
        yield f"| [{alert}](runbooks/{alert}.md) | {severity[alert]} | {shown} |\n"


def metrics(folder: Path = ROOT / "services") -> Iterator[Metric]:
    """Yield the metrics of all modules of the services."""
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and (
                metric := _metric(node, file.relative_to(folder).parts[0])
            ):
                yield metric


def _metric(call: ast.Call, service: str) -> Metric | None:
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    kind = name.strip("_").removesuffix("MetricFamily").lower()
    words = list(
        _words(
            [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "labels")]
        )
    )
    if kind not in KINDS or not words or not words[0].startswith(PREFIX):
        return None
    return Metric(words[0], kind, words[1], tuple(words[2:]), service)


def _words(nodes: list[ast.expr]) -> Iterator[str]:
    """Yield constant strings, including those in lists."""
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.List | ast.Tuple):
            yield from _words(node.elts)


if __name__ == "__main__":
    main()
