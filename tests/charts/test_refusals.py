"""Helm refuses invalid values and names them.

The rest of the message differs between versions of Helm.
"""

import pytest

from tests.charts.refused_values import BY_SCHEMA, BY_TEMPLATE
from tests.charts.rendering import CHART, VALUES, every_file, helm, refusal

WRONG = BY_SCHEMA | BY_TEMPLATE


@pytest.mark.parametrize("case", WRONG)
def test_an_invalid_value_is_named(case: str) -> None:
    setting, named = WRONG[case]
    output = refusal("existing-values.yaml", setting)
    assert [word for word in named.split() if word not in output] == []


EXTERNAL_STORES = {
    "database.existingSecret": "databases",
    "kafka.bootstrap": "kafka:9092",
    "kafka.existingSecret": "kafka",
    "kafka.caKey": "ca.crt",
    "kafka.securityProtocol": "SSL",
    "objectStore.endpoint": "s3",
    "objectStore.existingSecret": "bucket",
    "valkey.existingSecret": "valkey",
}


@pytest.mark.parametrize("value", EXTERNAL_STORES)
def test_an_evaluation_with_an_external_store_is_refused_by_name(value: str) -> None:
    assert f"{value}: " in refusal("evaluation-values.yaml", f"{value}={EXTERNAL_STORES[value]}")


def test_an_evaluation_with_gitops_is_refused() -> None:
    assert "evaluation.enabled: " in refusal(
        "evaluation-values.yaml", "gitops=true,secrets.existing=keys"
    )


@every_file("everything-values.yaml", "evaluation-values.yaml")
def test_helm_lint_passes(values: str) -> None:
    no_operator = (
        "monitoring.podMonitors.enabled=false,monitoring.rules.enabled=false,training.enabled=false"
    )
    result = helm("lint", "--strict", str(CHART), "-f", str(VALUES / values), "--set", no_operator)
    assert result.returncode == 0, result.stdout + result.stderr


STRIMZI = {
    "without its operator": ("gitops=false", "kafka.strimzi.enabled"),
    "with fewer brokers than replicas": (
        "kafka.strimzi.brokers=2",
        "kafka.topics.replicationFactor",
    ),
    "with another protocol": ("kafka.securityProtocol=SSL", "kafka.securityProtocol"),
}


@pytest.mark.parametrize("case", STRIMZI)
def test_invalid_values_of_strimzi_are_refused_by_name(case: str) -> None:
    setting, named = STRIMZI[case]
    assert f"{named}: " in refusal("strimzi-values.yaml", setting)
