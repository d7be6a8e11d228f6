"""The chart's schema knows every setting of the chart, and none of other values or secrets."""

import json

import pytest

from infra.docs.chart_settings import OUT_OF_DATABASE, SCHEMA, with_settings
from infra.docs.settings import settings_class
from infra.service_table import service_table
from tests.charts.rendering import VALUES, containers, render, runtime_containers


def names(service: str) -> set[str]:
    """Return the settings of a service that the values may set."""
    schema = with_settings(json.loads(SCHEMA.read_text()))
    return set(schema["$defs"]["settingsOf"][service]["propertyNames"]["enum"])


@pytest.mark.parametrize("service", service_table().names)
def test_settings_of_pods_are_in_the_schema_unless_they_come_from_a_secret(
    service: str,
) -> None:
    prefix = f"TW_{service.upper()}_"
    found = {
        (variable["name"].removeprefix(prefix).lower(), "$(" in variable.get("value", "$("))
        for values in VALUES.glob("*-values.yaml")
        for container in (
            *containers(render(values.name)),
            *runtime_containers(render(values.name)),
        )
        for variable in container.get("env", ())
        if variable["name"].startswith(prefix)
    }
    assert found
    secret = {name for name, is_secret in found if is_secret}
    assert {name for name, _ in found} - secret - OUT_OF_DATABASE <= names(service)
    assert not (secret | OUT_OF_DATABASE) & names(service)


def test_common_settings_may_be_set_for_all_services() -> None:
    assert {"log_format", "max_concurrent_rpcs"} <= names("every")
    for service in service_table().grpc:
        own = names(service.name)
        assert names("every") <= own <= set(settings_class(service.name).model_fields)


def test_the_rest_of_the_schema_is_unchanged() -> None:
    before = json.loads(SCHEMA.read_text())
    after = with_settings({**before, "$defs": {**before["$defs"], "settingsOf": {}}})
    assert after == before
