"""Every object of Kubernetes' own kinds has only fields that the oldest, the tested and the newest version know.

Resources of other operators are held against their makers' definitions on a real API server: tests/infra/deploy/test_admission.py.
"""

import copy

import kubernetes_validate
import pytest

from tests.charts.rendering import VALUES, render

FOREIGN = (
    "gateway.networking.k8s.io/",
    "kafka.strimzi.io/",
    "keda.sh/",
    "monitoring.coreos.com/",
    "ray.io/",
    "serving.kserve.io/",
)


@pytest.mark.parametrize("version", ["1.30", "1.34", "1.37"])
@pytest.mark.parametrize("values", sorted(path.name for path in VALUES.glob("*-values.yaml")))
def test_every_field_is_known(values: str, version: str) -> None:
    own = [found for found in render(values) if not found["apiVersion"].startswith(FOREIGN)]
    assert len(own) > 20
    for found in own:
        kubernetes_validate.validate(copy.deepcopy(dict(found)), version, strict=True)


def test_a_field_that_nobody_knows_would_be_found() -> None:
    (pod, *_) = [found for found in render("one-node-values.yaml") if found["kind"] == "Deployment"]
    wrong = copy.deepcopy(dict(pod))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessProb"):
        kubernetes_validate.validate(wrong, "1.34", strict=True)
