"""The schema refuses invalid values and names them.

The rest of the message differs between versions of Helm.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from tests.charts.refused_values import BY_SCHEMA, BY_SCHEMA_AS_NULL
from tests.charts.rendering import CHART, VALUES, every_file, helm, refusal

WRONG = BY_SCHEMA | BY_SCHEMA_AS_NULL


@pytest.mark.parametrize("case", WRONG)
def test_an_invalid_value_is_named(case: str) -> None:
    setting, named = WRONG[case]
    output = refusal("existing-values.yaml", setting)
    assert "thumbwheel/templates" not in output
    assert [word for word in named.split() if word not in output] == []


# The templates accept null, which leaves a decision to the cluster or the Gateway.
NULL = {"podSecurityContext", "gatewayApi.http.timeouts"}


def single_values_and_groups(
    defaults: Mapping[str, Any], schema: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, bool]]:
    """Yield each value and group of values with a default, and if the schema requires it.

    Helm removes what is null. A group that is absent would fail in a template, and a value would
    be empty or 0 instead of its default. Lists and labels may be null.
    """
    for key, value in defaults.items():
        below = schema.get("properties", {}).get(key, {})
        free = below.get("$ref") == "#/$defs/strings"
        if not isinstance(value, list) and value != {} and not free:
            name = ".".join((*path, key))
            if "properties" in schema and not {name, ".".join(path)} & NULL:
                yield name, key in schema.get("required", ())
            if isinstance(value, dict):
                yield from single_values_and_groups(value, below, (*path, key))


def test_no_default_can_be_null() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    found = dict(single_values_and_groups(defaults, schema))
    assert {"spread", "serving.vllm.resources", "networkPolicies.enabled"} <= found.keys()
    assert [name for name, required in found.items() if not required] == []


@every_file("everything-values.yaml", "evaluation-values.yaml")
def test_helm_lint_passes(values: str) -> None:
    no_operator = (
        "monitoring.podMonitors.enabled=false,monitoring.rules.enabled=false,training.enabled=false"
    )
    result = helm("lint", "--strict", str(CHART), "-f", str(VALUES / values), "--set", no_operator)
    assert result.returncode == 0, result.stdout + result.stderr
