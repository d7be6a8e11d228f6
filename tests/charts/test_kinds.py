"""Every object of Kubernetes' own kinds has only fields of the oldest and of the newest supported
version.

Resources of other operators are held against their makers' definitions on a real API server:
tests/infra/deploy/test_admission.py.
"""

import copy
import json
from collections.abc import Iterator
from functools import cache

import kubernetes_validate
import pytest

from tests.charts.rendering import FILES, render

FOREIGN = (
    "gateway.networking.k8s.io/",
    "kafka.strimzi.io/",
    "keda.sh/",
    "monitoring.coreos.com/",
    "ray.io/",
    "serving.kserve.io/",
)


@pytest.fixture(scope="module", autouse=True)
def schemas_are_read_once() -> Iterator[None]:
    """The library reads two megabytes of schemas for each object."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("all_versions", "schema_contents"):
            patch.setattr(
                kubernetes_validate.utils, name, cache(getattr(kubernetes_validate.utils, name))
            )
        yield


@cache
def validate(document: str, version: str) -> None:
    """Validate an object, given as JSON. Equal objects of several values files are validated once."""
    kubernetes_validate.validate(json.loads(document), version, strict=True)


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("values", FILES)
def test_every_field_is_known(values: str, version: str) -> None:
    own = [found for found in render(values) if not found["apiVersion"].startswith(FOREIGN)]
    assert len(own) > 20
    for found in own:
        validate(json.dumps(found, sort_keys=True), version)


def test_a_field_that_nobody_knows_would_be_found() -> None:
    (pod, *_) = [found for found in render("one-node-values.yaml") if found["kind"] == "Deployment"]
    wrong = copy.deepcopy(dict(pod))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessProb"):
        validate(json.dumps(wrong), "1.37")
