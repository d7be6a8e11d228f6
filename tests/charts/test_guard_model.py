"""The operator's guard model: settings, key, policy and egress of the guardrail."""

import json
from typing import Any

import pytest

from services.guardrail.settings import GuardrailSettings
from tests.charts.rendering import Object, component, of_kind, pods, render

FILE = "everything-values.yaml"


def pod(objects: list[Object], service: str) -> Any:
    return pods(objects)[f"{service}/Deployment"]


def variables(objects: list[Object], service: str) -> dict[str, str]:
    (container,) = pod(objects, service)["spec"]["containers"]
    return {item["name"]: item["value"] for item in container["env"] if "value" in item}


def guard_ports(objects: list[Object]) -> list[Any]:
    (policy,) = (
        each for each in of_kind(objects, "NetworkPolicy") if component(each) == "guardrail"
    )
    return [rule.get("ports") for rule in policy["spec"].get("egress") or ()]


def test_guardrail_accepts_its_settings_and_reads_mounted_files() -> None:
    objects = list(render(FILE))
    prefix = "TW_GUARDRAIL_"
    values = {
        name.removeprefix(prefix).lower(): value
        for name, value in variables(objects, "guardrail").items()
        if name.startswith(f"{prefix}OPERATOR_")
    }
    settings = GuardrailSettings.model_validate(values)
    assert settings.operator_endpoint == "http://safeguard.models.svc:8000/v1"
    assert (settings.operator_on_failure, settings.operator_max_tokens) == ("skip", 1024)
    spec = pod(objects, "guardrail")["spec"]
    mounts = {each["mountPath"]: each["name"] for each in spec["containers"][0]["volumeMounts"]}
    volumes = {each["name"]: each for each in spec["volumes"]}
    for file in (settings.operator_key_file, settings.operator_prompt_file):
        assert file and str(file.parent) in mounts
    assert volumes[mounts["/guard-model-key"]]["secret"]["secretName"] == "safeguard"
    name = volumes[mounts["/guard-model"]]["configMap"]["name"]
    (policy,) = (each for each in of_kind(objects, "ConfigMap") if each["metadata"]["name"] == name)
    assert policy["data"]["prompt.txt"].startswith("Does the text")


def test_gateway_waits_longer_than_the_guard_model_may_take() -> None:
    assert float(variables(list(render(FILE)), "gateway")["TW_GATEWAY_GUARD_SECONDS"]) == 5


def test_only_the_guardrail_reaches_the_port_of_the_endpoint() -> None:
    objects = list(render(FILE))
    assert [{"port": 8000, "protocol": "TCP"}] in guard_ports(objects)
    given = "guardrail.operator.egress[0].to[0].ipBlock.cidr=203.0.113.0/24"
    for policy in of_kind(list(render(FILE, given)), "NetworkPolicy"):
        reaches = "203.0.113.0/24" in json.dumps(policy)
        assert reaches == (component(policy) == "guardrail"), component(policy)


@pytest.mark.parametrize("service", ["guardrail", "gateway"])
def test_without_an_endpoint_nothing_changes(service: str) -> None:
    objects = list(render("existing-values.yaml"))
    names = variables(objects, service)
    assert not [name for name in names if "OPERATOR" in name or "GUARD_SECONDS" in name]
    assert "guard-model" not in json.dumps(objects)


def test_changed_policy_restarts_the_guardrail_only() -> None:
    before = list(render(FILE))
    after = list(render(FILE, "guardrail.operator.prompt=Another policy."))
    changed = {name for name, each in pods(before).items() if each != pods(after)[name]}
    assert changed == {"guardrail/Deployment"}
