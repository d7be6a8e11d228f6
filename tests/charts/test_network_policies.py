"""Everything is closed; open is who calls whom, as the environments say it. So an edge that a
service needs cannot be forgotten.
"""

import base64
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.charts.rendering import Object, component, of_kind, pods, render

FILES = (
    "existing-values.yaml",
    "one-node-values.yaml",
    "evaluation-values.yaml",
    "ray-values.yaml",
)
# Into the doors everybody may.
DOORS = {8080, 50051}
STORES = {"postgres", "kafka", "s3", "valkey"}


def said(objects: Sequence[Object], container: Any) -> Iterator[str]:
    """What a container is told: its arguments, its environment, what the chart's own secrets put
    there.
    """
    secrets = {each["metadata"]["name"]: each["data"] for each in of_kind(objects, "Secret")}
    yield from container.get("args", ())
    for variable in container.get("env", ()):
        yield variable.get("value", "")
        reference = variable.get("valueFrom", {}).get("secretKeyRef", {})
        if reference.get("name") in secrets:
            yield base64.b64decode(secrets[reference["name"]][reference["key"]]).decode()


def called(objects: Sequence[Object]) -> set[tuple[str, str, int]]:
    """Caller, callee and port, out of what containers are told."""
    found = set()
    for name, pod in pods(objects).items():
        for container in pod["spec"]["containers"]:
            words = " ".join(said(objects, container))
            for callee, port in re.findall(r"\btw-thumbwheel-([a-z0-9]+):(\d+)", words):
                # The door's Service leads to the gateway's pods.
                found.add(
                    (
                        name.split("/")[0],
                        *(("gateway", 8080) if callee == "door" else (callee, int(port))),
                    )
                )
    return found


def peers(rule: Any, key: str) -> list[str]:
    """By component; pods that are not ours have none."""
    labels = [
        each["podSelector"]["matchLabels"] for each in rule.get(key, ()) if "podSelector" in each
    ]
    return [
        each["app.kubernetes.io/component"]
        for each in labels
        if "app.kubernetes.io/component" in each
    ]


def by_port(rules: Any) -> list[Any]:
    """Without Ray's own edges, which are open at every port."""
    return [rule for rule in rules or () if "ports" in rule]


@pytest.mark.parametrize("values", FILES)
def test_open_are_exactly_the_edges_that_services_use_at_both_ends(values: str) -> None:
    objects = render(values)
    into, out_of = set(), set()
    for policy in of_kind(objects, "NetworkPolicy"):
        mine = policy["spec"]["podSelector"]["matchLabels"].get("app.kubernetes.io/component")
        for rule in by_port(policy["spec"].get("ingress")):
            into |= {
                (caller, mine, port["port"])
                for caller in peers(rule, "from")
                for port in rule["ports"]
            }
        for rule in by_port(policy["spec"].get("egress")):
            out_of |= {
                (mine, callee, port["port"])
                for callee in peers(rule, "to")
                for port in rule["ports"]
            }
    assert out_of == called(objects)
    # Whoever may come in at the door is not named there.
    assert into | {("test-health", "gateway", 8080)} == called(objects)
    assert ("gateway", "session", 50054) in into
    assert ("generator", "predictor", 8000) in into


@pytest.mark.parametrize("values", FILES)
def test_one_policy_closes_every_pod_and_every_component_has_its_own(values: str) -> None:
    objects = render(values)
    policies = {component(each): each["spec"] for each in of_kind(objects, "NetworkPolicy")}
    closed = policies["network"]
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in closed
    for pod in pods(objects).values():
        assert closed["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert set(policies) == {"network", *(name.split("/")[0] for name in pods(objects))}


def test_only_the_gateway_is_open_to_everybody_and_only_what_has_a_store_gets_out() -> None:
    objects = render("existing-values.yaml")
    policies = {component(each): each["spec"] for each in of_kind(objects, "NetworkPolicy")}
    open_rules = [
        (name, rule)
        for name, spec in policies.items()
        for rule in spec.get("ingress") or ()
        if "from" not in rule
    ]
    assert [(name, {port["port"] for port in rule["ports"]}) for name, rule in open_rules] == [
        ("gateway", DOORS)
    ]
    anywhere = {name for name, spec in policies.items() if {} in (spec.get("egress") or ())}
    assert anywhere == {"gateway", "session", "generator", "feedback"}


def test_named_peers_close_the_doors_and_the_way_to_the_stores() -> None:
    policies = {
        component(each): each["spec"]
        for each in of_kind(render("everything-values.yaml"), "NetworkPolicy")
    }
    assert not [name for name, spec in policies.items() if {} in (spec.get("egress") or ())]
    assert not [
        name
        for name, spec in policies.items()
        for rule in spec.get("ingress") or ()
        if "from" not in rule
    ]


def test_a_store_of_the_evaluation_is_reached_by_who_needs_it_and_reaches_nobody() -> None:
    objects = render("evaluation-values.yaml")
    policies = {component(each): each["spec"] for each in of_kind(objects, "NetworkPolicy")}
    callers = {
        store: {caller for caller, callee, _ in called(objects) if callee == store}
        for store in STORES
    }
    assert callers == {
        "postgres": {"gateway", "session", "generator", "feedback"},
        "kafka": {"feedback"},
        "s3": {"feedback"},
        "valkey": {"gateway"},
    }
    for store in STORES:
        (rule,) = policies[store]["ingress"]
        assert set(peers(rule, "from")) == callers[store]
        assert not policies[store].get("egress")
    assert not [name for name, spec in policies.items() if {} in (spec.get("egress") or ())], (
        "nobody needs the world"
    )


def test_who_sends_traces_gets_out_of_an_evaluation_too() -> None:
    objects = render("evaluation-values.yaml", "monitoring.otlpEndpoint=http://collector:4317")
    policies = {component(each): each["spec"] for each in of_kind(objects, "NetworkPolicy")}
    assert {} in policies["guardrail"]["egress"]
    assert not [store for store in STORES if policies[store].get("egress")]
