"""Score of a released chart by the checklist of infra/check/chart, with values for production."""

from pathlib import Path

from infra.check.chart.__main__ import check, flat, unpacked
from infra.check.chart.chart import Chart
from infra.check.chart.points import Outcome
from infra.machine.cluster.installation import locate
from infra.release.chart import ChartInputs, package_chart
from tests.charts.rendering import CHART, VALUES

PRODUCTION = ("gitops-values.yaml", "high-availability-values.yaml")
# Training on KubeRay, with a Role, and the address of the API server.
TRAINING = (
    "training.enabled=true",
    "ray.mode=kuberay",
    "training.loop.existingClaim=loop",
    "networkPolicies.apiServer[0].to[0].ipBlock.cidr=192.0.2.1/32",
    "networkPolicies.apiServer[0].ports[0].port=6443",
)
# Points that the chart does not pass yet. This set only shrinks.
OPEN = {
    "dashboards",
    "further-objects",
    "identity",
    "provenance",
    "readme",
    "two-releases",
}
# The chart renders no configuration for servers, as all secrets exist.
WITHOUT_OBJECT = {"rolling-configuration"}


def test_the_released_chart_passes_the_checklist(tmp_path: Path) -> None:
    package = package_chart(ChartInputs(CHART, {}), locate().clients / "helm", tmp_path)
    chart = Chart(unpacked(package, tmp_path), [VALUES / name for name in PRODUCTION], TRAINING)
    results = flat(check(chart))
    failed = {item.point.name: item.findings for item in results if item.outcome is Outcome.FAILED}
    assert {name: found for name, found in failed.items() if name not in OPEN} == {}
    silent = {item.point.name for item in results if item.outcome is Outcome.NOT_APPLICABLE}
    assert silent <= WITHOUT_OBJECT
