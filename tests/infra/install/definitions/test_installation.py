"""Resource definitions used by tests are complete and contain the chart's versions."""

import pytest
import yaml

from infra.install.definitions.installation import find_installed

WRITTEN = {
    "gateway-api": {"GRPCRoute": "v1", "HTTPRoute": "v1"},
    "keda": {"ScaledObject": "v1alpha1"},
    "kserve-0_15": {"InferenceService": "v1beta1", "ServingRuntime": "v1alpha1"},
    "kserve-0_20": {"InferenceService": "v1beta1", "ServingRuntime": "v1alpha1"},
    "prometheus-operator": {"PodMonitor": "v1", "PrometheusRule": "v1"},
    "strimzi": {"Kafka": "v1", "KafkaNodePool": "v1", "KafkaTopic": "v1", "KafkaUser": "v1"},
}


# Parsing KServe's definitions takes a second, so the older version is a long test.
@pytest.mark.parametrize(
    "maker",
    [
        pytest.param(name, marks=pytest.mark.long) if name == "kserve-0_15" else name
        for name in WRITTEN
    ],
)
def test_definitions_serve_the_versions_of_the_chart(maker: str) -> None:
    found = {}
    for path in (find_installed() / maker).iterdir():
        spec = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]
        found[spec["names"]["kind"]] = {
            version["name"] for version in spec["versions"] if version["served"]
        }
    assert found.keys() == WRITTEN[maker].keys()
    assert all(version in found[kind] for kind, version in WRITTEN[maker].items())
