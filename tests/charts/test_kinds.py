"""Objects of Kubernetes' own kinds have only fields of the oldest and newest supported versions.

Resources of other operators are checked against their definitions on a real API server in
tests/infra/run/deploy/test_admission.py.
"""

import copy
import json
from collections.abc import Iterator
from functools import cache

import kubernetes_validate
import pytest

from tests.charts.rendering import FILES, render

FOREIGN = (
    "cert-manager.io/",
    "gateway.networking.k8s.io/",
    "kafka.strimzi.io/",
    "keda.sh/",
    "monitoring.coreos.com/",
    "ray.io/",
    "serving.kserve.io/",
)


@pytest.fixture(scope="module", autouse=True)
def schemas_are_read_once() -> Iterator[None]:
    """Cache the two megabytes of schemas that the library reads for each object."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("all_versions", "schema_contents"):
            patch.setattr(
                kubernetes_validate.utils, name, cache(getattr(kubernetes_validate.utils, name))
            )
        yield


@cache
def validate(document: str, version: str) -> None:
    """Validate an object, given as JSON; equal objects are validated once."""
    kubernetes_validate.validate(json.loads(document), version, strict=True)


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("values", FILES)
def test_every_field_is_known(values: str, version: str) -> None:
    own = [found for found in render(values) if not found["apiVersion"].startswith(FOREIGN)]
    assert len(own) > 20
    for found in own:
        validate(json.dumps(found, sort_keys=True), version)


def test_an_unknown_field_is_found() -> None:
    (pod, *_) = [found for found in render("one-node-values.yaml") if found["kind"] == "Deployment"]
    wrong = copy.deepcopy(dict(pod))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessProb"):
        validate(json.dumps(wrong), "1.37")
