"""Score of a released chart by the checklist of infra/check/chart, with values for production."""

import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from infra.check.chart.__main__ import check, flat, unpacked
from infra.check.chart.chart import Chart
from infra.check.chart.points import Outcome
from infra.machine.cluster.installation import locate
from infra.release.build import evidence_of
from infra.release.chart import ChartInputs, package_chart
from infra.release.sbom import release_bom
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
# The chart renders no configuration for servers, as all secrets exist.
WITHOUT_OBJECT = {"rolling-configuration"}


def test_the_released_chart_passes_the_checklist(tmp_path: Path) -> None:
    (tmp_path / "sbom").mkdir()
    bom = release_bom("0.1.0", {}, datetime.datetime.now(datetime.UTC))
    (tmp_path / "sbom" / "release.cdx.json").write_text(bom)
    evidence = evidence_of(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    inputs = ChartInputs(CHART, {}, evidence=evidence)
    package = package_chart(inputs, locate().clients / "helm", tmp_path)
    chart = Chart(unpacked(package, tmp_path), [VALUES / name for name in PRODUCTION], TRAINING)
    results = flat(check(chart))
    failed = {item.point.name: item.findings for item in results if item.outcome is Outcome.FAILED}
    assert failed == {}
    silent = {item.point.name for item in results if item.outcome is Outcome.NOT_APPLICABLE}
    assert silent <= WITHOUT_OBJECT
