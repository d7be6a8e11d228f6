"""Metrics as Prometheus wants them: names, units, and labels with few values."""

import re

import pytest

from infra.docs.metrics import Metric, metrics, page

METRICS = list(metrics())
# A label's every value is a series for ever: ids of people, talks and calls, and texts, are never
# one.
UNBOUNDED = {"user", "principal", "tenant", "key", "id", "text", "path", "url", "prompt", "peer"}
UNBOUNDED_ENDS = ("_id", "_text", "_key")
# What each may end with, after the number that it counts.
UNITS = ("_seconds", "_bytes", "_ratio")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_named_by_prometheus_conventions_and_its_labels_are_few(metric: Metric) -> None:
    assert re.fullmatch(r"thumbwheel(_[a-z0-9]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.kind != "histogram" or metric.name.endswith(UNITS)
    assert metric.text.endswith(".")
    assert not UNBOUNDED & set(metric.labels)
    assert not [label for label in metric.labels if label.endswith(UNBOUNDED_ENDS)]
    assert len(metric.labels) <= 3


def test_no_name_is_used_twice() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)


def test_the_page_has_metrics_of_every_kind_of_call() -> None:
    rows = page().splitlines()
    for start in (
        "| `thumbwheel_rpcs_total` | counter | `method`, `code` |",
        "| `thumbwheel_guardrail_verdicts_total` | counter | `stage`, `action`, `category` |",
        "| `thumbwheel_predictor_requests_total` | counter | `endpoint`, `version`, `status` |",
        "| `thumbwheel_loop_turn_result` | gauge | `recipe`, `result` |",
    ):
        assert [row for row in rows if row.startswith(start)], start
