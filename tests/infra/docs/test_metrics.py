"""Prometheus conventions for metrics: names, units, and labels with few values."""

import re

import pytest

from infra.docs.metrics import Metric, metrics, page

METRICS = list(metrics())
# Every value of a label is a separate series. Ids of persons, conversations and calls, and texts
# are therefore forbidden as labels.
UNBOUNDED = {"user", "principal", "tenant", "key", "id", "text", "path", "url", "prompt", "peer"}
UNBOUNDED_ENDS = ("_id", "_text", "_key")
# Permitted suffixes after the name of the measured quantity.
UNITS = ("_seconds", "_bytes", "_ratio")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metric_follows_conventions_and_has_few_labels(metric: Metric) -> None:
    assert re.fullmatch(r"thumbwheel(_[a-z0-9]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.kind != "histogram" or metric.name.endswith(UNITS)
    assert metric.text.endswith(".")
    assert not UNBOUNDED & set(metric.labels)
    assert not [label for label in metric.labels if label.endswith(UNBOUNDED_ENDS)]
    assert len(metric.labels) <= 3


def test_metric_names_are_unique() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)


def test_page_contains_metrics_of_every_kind() -> None:
    rows = page().splitlines()
    for start in (
        "| `thumbwheel_rpcs_total` | counter | `method`, `code` |",
        "| `thumbwheel_guardrail_verdicts_total` | counter | `stage`, `action`, `category` |",
        "| `thumbwheel_predictor_requests_total` | counter | `endpoint`, `version`, `status` |",
        "| `thumbwheel_loop_turn_result` | gauge | `recipe`, `result` |",
    ):
        assert [row for row in rows if row.startswith(start)], start
