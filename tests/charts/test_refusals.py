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


def groups(
    defaults: Mapping[str, Any], schema: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, bool]]:
    """Yield each group of values with a default, and if the schema requires it.

    Helm removes a value that is null, and a group that is absent would fail in a template.
    """
    for key, value in defaults.items():
        below = schema.get("properties", {}).get(key, {})
        free = below.get("$ref") == "#/$defs/strings"
        if isinstance(value, dict) and value and not free:
            name = ".".join((*path, key))
            if "properties" in schema and name not in NULL:
                yield name, key in schema.get("required", ())
            yield from groups(value, below, (*path, key))


def test_no_group_of_values_can_be_null() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    found = dict(groups(defaults, json.loads((CHART / "values.schema.json").read_text())))
    assert {"spread", "serving.vllm.resources", "backup.bucket"} <= found.keys()
    assert [name for name, required in found.items() if not required] == []


@every_file("everything-values.yaml", "evaluation-values.yaml")
def test_helm_lint_passes(values: str) -> None:
    no_operator = (
        "monitoring.podMonitors.enabled=false,monitoring.rules.enabled=false,training.enabled=false"
    )
    result = helm("lint", "--strict", str(CHART), "-f", str(VALUES / values), "--set", no_operator)
    assert result.returncode == 0, result.stdout + result.stderr
