"""Network policies: closed by default, and open for the calls in the environments of the pods.

An edge that a service needs can therefore not be missed.
"""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from infra.service_table import service_table
from tests.charts.rendering import Object, component, of_kind, outside_ports, pods, render

FILES = (
    "existing-values.yaml",
    "one-node-values.yaml",
    "evaluation-values.yaml",
    "ray-values.yaml",
)
# Public ports of the gateway.
PUBLIC_PORTS = {8080, 50051}
STORES = {"postgres", "kafka", "s3", "valkey"}


def configured_values(objects: Sequence[Object], container: Any) -> Iterator[str]:
    """Yield arguments, environment, and values of the chart's own secrets of a container."""
    secrets = {item["metadata"]["name"]: item["data"] for item in of_kind(objects, "Secret")}
    yield from container.get("args", ())
    for variable in container.get("env", ()):
        yield variable.get("value", "")
        reference = variable.get("valueFrom", {}).get("secretKeyRef", {})
        # Further master keys are optional, and absent outside of a rotation.
        if reference.get("key") in secrets.get(reference.get("name"), {}):
            yield base64.b64decode(secrets[reference["name"]][reference["key"]]).decode()


def configured_calls(objects: Sequence[Object]) -> set[tuple[str, str, int]]:
    """Return caller, callee and port of all calls in the configuration of containers."""
    found = set()
    for name, pod in pods(objects).items():
        if name == "test-stranger/Job":
            continue  # no policy allows its calls
        for container in pod["spec"]["containers"]:
            text = " ".join(configured_values(objects, container))
            for callee, port in re.findall(r"\btw-thumbwheel-([a-z0-9]+):(\d+)", text):
                # The public Service selects the pods of the gateway.
                found.add(
                    (
                        name.split("/")[0],
                        *(("gateway", 8080) if callee == "public" else (callee, int(port))),
                    )
                )
    return found


def peers(rule: Any, key: str) -> list[str]:
    """Return the components of a rule's peers; other pods have none."""
    labels = [
        item["podSelector"]["matchLabels"] for item in rule.get(key, ()) if "podSelector" in item
    ]
    return [
        item["app.kubernetes.io/component"]
        for item in labels
        if "app.kubernetes.io/component" in item
    ]


def by_port(rules: Any) -> list[Any]:
    """Return the rules with ports, without Ray's own rules, which open every port."""
    return [rule for rule in rules or () if "ports" in rule]


@pytest.mark.parametrize("values", FILES)
def test_policies_open_exactly_the_edges_that_services_use(values: str) -> None:
    objects = render(values)
    into, out_of = set(), set()
    for policy in of_kind(objects, "NetworkPolicy"):
        own = policy["spec"]["podSelector"]["matchLabels"].get("app.kubernetes.io/component")
        for rule in by_port(policy["spec"].get("ingress")):
            into |= {
                (caller, own, port["port"])
                for caller in peers(rule, "from")
                for port in rule["ports"]
            }
        for rule in by_port(policy["spec"].get("egress")):
            out_of |= {
                (own, callee, port["port"])
                for callee in peers(rule, "to")
                for port in rule["ports"]
            }
    assert out_of == configured_calls(objects)
    # Policies do not name the public clients of the gateway.
    assert into | {("test-health", "gateway", 8080)} == configured_calls(objects)
    assert ("gateway", "session", 50054) in into
    assert ("generator", "predictor", 8000) in into


@pytest.mark.parametrize("values", FILES)
def test_a_common_policy_closes_every_pod_and_each_component_has_its_own(values: str) -> None:
    objects = render(values)
    policies = {component(item): item["spec"] for item in of_kind(objects, "NetworkPolicy")}
    closed = policies["network"]
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in closed
    own = {name.split("/")[0]: pod for name, pod in pods(objects).items()}
    del own["test-stranger"]  # has no label of the release
    for pod in own.values():
        assert closed["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert set(policies) == {"network", *own}


def test_only_the_gateway_is_open_and_egress_is_limited_to_the_ports_of_stores() -> None:
    """Finding S-29: services with a store could connect to every port of every address."""
    objects = render("existing-values.yaml")
    policies = {component(item): item["spec"] for item in of_kind(objects, "NetworkPolicy")}
    open_rules = [
        (name, rule)
        for name, spec in policies.items()
        for rule in spec.get("ingress") or ()
        if "from" not in rule
    ]
    assert [(name, {port["port"] for port in rule["ports"]}) for name, rule in open_rules] == [
        ("gateway", PUBLIC_PORTS)
    ]
    assert {name: ports for name, spec in policies.items() if (ports := outside_ports(spec))} == {
        "gateway": {5432, 6379},
        "session": {5432},
        "generator": {5432},
        "review": {5432},
        "feedback": {5432, 9092, 8333},
    }


@pytest.mark.parametrize(
    ("setting", "service", "port"),
    [
        ("networkPolicies.ports.database[0]=6432", "session", 6432),
        ("kafka.bootstrap=one:9092\\,two:9192", "feedback", 9192),
        ("networkPolicies.ports.kafka[0]=31092", "feedback", 31092),
        ("objectStore.endpoint=s3.example", "feedback", 443),
        ("monitoring.otlpEndpoint=https://collector", "guardrail", 443),
        ("monitoring.otlpEndpoint=http://collector:4317", "enhancer", 4317),
    ],
)
def test_ports_of_stores_are_derived_from_the_values(setting: str, service: str, port: int) -> None:
    objects = render("existing-values.yaml", setting)
    policies = {component(item): item["spec"] for item in of_kind(objects, "NetworkPolicy")}
    assert port in outside_ports(policies[service])


ANYWHERE = "networkPolicies.storesAnywhere=true"
ISSUERS = [{"issuer": "https://login.example", "audience": "chat", "tenants": ["acme"]}]
SETTING = f"services.gateway.settings.oidc_issuers={json.dumps(ISSUERS)}"
REFERENCE = {"secretKeyRef": {"name": "sign-in", "key": "issuers"}}
VARIABLE = "services.gateway.extraEnv=" + json.dumps(
    [{"name": "TW_GATEWAY_OIDC_ISSUERS", "valueFrom": REFERENCE}]
)


@pytest.mark.parametrize("given", [SETTING, VARIABLE], ids=["setting", "variable"])
@pytest.mark.parametrize(
    ("values", "stores"),
    [("existing-values.yaml", {5432, 6379}), ("evaluation-values.yaml", set())],
)
def test_a_gateway_with_issuers_reaches_their_port_and_no_other_service_does(
    values: str, stores: set[int], given: str
) -> None:
    ports = {
        component(item): outside_ports(item["spec"])
        for item in of_kind(render(values, ANYWHERE, json_sets=(given,)), "NetworkPolicy")
    }
    assert ports.pop("gateway") == {443} | stores
    assert 443 not in set().union(*ports.values())


@pytest.mark.parametrize("values", (*FILES, "gpu-values.yaml", "everything-values.yaml"))
def test_no_pod_reaches_everything_or_the_metadata_of_the_cloud(values: str) -> None:
    for policy in of_kind(render(values), "NetworkPolicy"):
        for rule in policy["spec"].get("egress") or ():
            assert rule, component(policy)
            # Without `to`, a rule includes every address.
            for peer in rule["to"]:
                if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0":
                    assert "169.254.0.0/16" in peer["ipBlock"]["except"]


# One rule for each store, one without ports, and one for a range.
RULES = [
    {"to": [{"ipBlock": {"cidr": "10.0.1.0/24"}}], "ports": [{"port": 5432}]},
    {"to": [{"ipBlock": {"cidr": "10.0.2.0/24"}}], "ports": [{"port": 6379, "protocol": "TCP"}]},
    {"to": [{"ipBlock": {"cidr": "10.0.3.0/24"}}], "ports": [{"port": 9000, "endPort": 9999}]},
    {"to": [{"ipBlock": {"cidr": "10.0.4.0/24"}}]},
]
STORE_RULES = "networkPolicies.stores=" + json.dumps(RULES)
DATABASE, VALKEY, KAFKA, BUCKET = 5432, 6379, 9092, 443
EXPECTED = {
    "session": {("10.0.1.0/24", DATABASE), ("10.0.4.0/24", DATABASE)},
    "review": {("10.0.1.0/24", DATABASE), ("10.0.4.0/24", DATABASE)},
    "gateway": {
        ("10.0.1.0/24", DATABASE),
        ("10.0.2.0/24", VALKEY),
        ("10.0.4.0/24", DATABASE),
        ("10.0.4.0/24", VALKEY),
    },
    "feedback": {
        ("10.0.1.0/24", DATABASE),
        ("10.0.3.0/24", KAFKA),
        ("10.0.4.0/24", DATABASE),
        ("10.0.4.0/24", KAFKA),
        ("10.0.4.0/24", BUCKET),
    },
}
TO_BUCKET = {("10.0.4.0/24", BUCKET)}


@pytest.mark.parametrize(
    ("values", "sets", "of_bucket"),
    [
        ("gpu-values.yaml", ("models.store=s3://versions/chat",), ("predictor", "model")),
        ("ray-values.yaml", (), ("training", "ray-worker")),
    ],
    ids=["vLLM", "Ray"],
)
def test_rules_for_stores_reach_each_pod_at_the_ports_of_its_own_stores(
    values: str, sets: tuple[str, ...], of_bucket: tuple[str, ...]
) -> None:
    """Every rule was given to every pod with a store: vLLM and Ray workers reached Postgres."""
    stores = (
        "networkPolicies.storesAnywhere=false",
        "kafka.bootstrap=kafka:9092",
        "objectStore.endpoint=s3.example",
    )
    objects = render(values, *stores, *sets, json_sets=(STORE_RULES,))
    found = {
        component(item): {
            (peer["ipBlock"]["cidr"], port["port"])
            for rule in item["spec"].get("egress") or ()
            for peer in rule.get("to", ())
            if peer.get("ipBlock", {}).get("cidr", "").startswith("10.0.")
            for port in rule["ports"]
        }
        for item in of_kind(objects, "NetworkPolicy")
    }
    expected = EXPECTED | dict.fromkeys(of_bucket, TO_BUCKET)
    assert {name: found[name] for name in expected} == expected


def test_names_are_resolved_by_the_pods_of_the_cluster_dns_only() -> None:
    (closed,) = [
        item["spec"]
        for item in of_kind(render("existing-values.yaml"), "NetworkPolicy")
        if component(item) == "network"
    ]
    (rule,) = closed["egress"]
    assert {port["port"] for port in rule["ports"]} == {53, 5353}
    for peer in rule["to"]:
        assert peer["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"}
        assert peer["namespaceSelector"]["matchLabels"]


@pytest.mark.parametrize(
    ("values", "port"),
    [
        ("everything-values.yaml", 9000),
        # vLLM has one port for both.
        ("gpu-values.yaml", 8000),
    ],
)
def test_monitoring_reaches_the_metrics_of_the_model_server_and_no_other_port(
    values: str, port: int
) -> None:
    """Finding S-17: a monitoring system could load and unload versions."""
    monitoring = "networkPolicies.metricsFrom[0].namespaceSelector.matchLabels.team=monitoring"
    policies = {
        component(item): item["spec"]
        for item in of_kind(render(values, monitoring), "NetworkPolicy")
    }
    rules = [
        rule
        for rule in policies["predictor"]["ingress"]
        if any("namespaceSelector" in each for each in rule["from"])
    ]
    assert [each["port"] for rule in rules for each in rule["ports"]] == [port]


def test_named_peers_restrict_ingress_and_egress() -> None:
    policies = {
        component(item): item["spec"]
        for item in of_kind(render("everything-values.yaml"), "NetworkPolicy")
    }
    assert not [name for name, spec in policies.items() if {} in (spec.get("egress") or ())]
    assert not [
        name
        for name, spec in policies.items()
        for rule in spec.get("ingress") or ()
        if "from" not in rule
    ]


def test_a_store_of_the_evaluation_accepts_its_users_and_has_no_egress() -> None:
    objects = render("evaluation-values.yaml")
    policies = {component(item): item["spec"] for item in of_kind(objects, "NetworkPolicy")}
    callers = {
        store: {caller for caller, callee, _ in configured_calls(objects) if callee == store}
        for store in STORES
    }
    assert callers == {
        "postgres": set(service_table().databases),
        "kafka": {service.name for service in service_table().grpc if service.kafka},
        "s3": {service.name for service in service_table().grpc if service.objects},
        "valkey": {service.name for service in service_table().grpc if service.valkey},
    }
    for store in STORES:
        (rule,) = policies[store]["ingress"]
        assert set(peers(rule, "from")) == callers[store]
        assert not policies[store].get("egress")
    assert not [name for name, spec in policies.items() if {} in (spec.get("egress") or ())], (
        "no component needs unrestricted egress"
    )


def test_services_that_send_traces_have_egress_in_an_evaluation() -> None:
    objects = render(
        "evaluation-values.yaml", ANYWHERE, "monitoring.otlpEndpoint=http://collector:4317"
    )
    policies = {component(item): item["spec"] for item in of_kind(objects, "NetworkPolicy")}
    assert outside_ports(policies["guardrail"]) == {4317}
    assert not [store for store in STORES if policies[store].get("egress")]
