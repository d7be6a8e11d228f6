"""Score of the chart by the checklist of infra/check/chart, with its values for production."""

from infra.check.chart.__main__ import check, flat
from infra.check.chart.chart import Chart
from infra.check.chart.points import Outcome
from tests.charts.rendering import CHART, VALUES

PRODUCTION = ("gitops-values.yaml", "high-availability-values.yaml")
# Points that the chart does not pass yet. This set only shrinks.
OPEN = {
    "alert-scope",
    "alerts",
    "dashboards",
    "further-objects",
    "identity",
    "image-list",
    "placement",
    "priority",
    "provenance",
    "readme",
    "two-releases",
}
# Production runs no training on KubeRay and no KServe here, so that no pod needs rights. The chart
# renders no configuration for servers, as all secrets exist.
WITHOUT_OBJECT = {"rights", "rolling-configuration"}


def test_the_chart_passes_the_checklist():
    results = flat(check(Chart(CHART, [VALUES / name for name in PRODUCTION])))
    failed = {item.point.name: item.findings for item in results if item.outcome is Outcome.FAILED}
    assert {name: found for name, found in failed.items() if name not in OPEN} == {}
    silent = {item.point.name for item in results if item.outcome is Outcome.NOT_APPLICABLE}
    assert silent <= WITHOUT_OBJECT
