"""The chart's schema knows every setting that the chart itself gives, and none that pods have out
of secrets.
"""

import json

import pytest

from infra.docs.chart_settings import SCHEMA, with_settings
from infra.docs.settings import SERVICES, settings_class
from tests.charts.rendering import VALUES, containers, render, runtime_containers


def names(service: str) -> set[str]:
    """That may be said."""
    schema = with_settings(json.loads(SCHEMA.read_text()))
    return set(schema["$defs"]["settingsOf"][service]["propertyNames"]["enum"])


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_pod_is_told_may_be_said_in_the_values_unless_it_is_out_of_a_secret(
    service: str,
) -> None:
    prefix = f"TW_{service.upper()}_"
    told = {
        (variable["name"].removeprefix(prefix).lower(), "$(" in variable.get("value", "$("))
        for values in VALUES.glob("*-values.yaml")
        for container in (
            *containers(render(values.name)),
            *runtime_containers(render(values.name)),
        )
        for variable in container.get("env", ())
        if variable["name"].startswith(prefix)
    }
    assert told
    secret = {name for name, is_secret in told if is_secret}
    assert {name for name, _ in told} - secret <= names(service)
    assert not secret & names(service)


def test_what_every_service_has_may_be_said_for_all() -> None:
    assert {"log_format", "max_concurrent_rpcs"} <= names("every")
    for service in set(SERVICES) - {"predictor"}:
        assert names("every") < names(service) <= set(settings_class(service).model_fields)


def test_the_rest_of_the_schema_is_left_as_it_is() -> None:
    before = json.loads(SCHEMA.read_text())
    after = with_settings({**before, "$defs": {**before["$defs"], "settingsOf": {}}})
    assert after == before
