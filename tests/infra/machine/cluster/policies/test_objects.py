"""Parsing of selectors, pods and policies from API objects."""

import pytest

from infra.machine.cluster.policies.objects import (
    IpBlock,
    Json,
    PodPeer,
    Port,
    Rule,
    Selector,
    read_pods,
    read_policy,
    read_selector,
)


def pod(address: str | None = "10.88.0.2", phase: str = "Running", **spec: object) -> Json:
    status = {"phase": phase, **({"podIP": address} if address else {})}
    return {
        "metadata": {"namespace": "demo", "name": "any"},
        "spec": {"containers": [], **spec},
        "status": status,
    }


def policy(**spec: object) -> Json:
    return {"metadata": {"namespace": "demo", "name": "any"}, "spec": {"podSelector": {}, **spec}}


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        ({}, {}, True),
        ({"matchLabels": {"app": "web"}}, {"app": "web", "tier": "front"}, True),
        ({"matchLabels": {"app": "web", "tier": "back"}}, {"app": "web", "tier": "front"}, False),
        (
            {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "api"]}]},
            {"app": "api"},
            True,
        ),
        (
            {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "api"]}]},
            {},
            False,
        ),
        (
            {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]},
            {"app": "web"},
            False,
        ),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, {}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, {"app": ""}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, {}, False),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, {"app": ""}, False),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, {}, True),
        (
            {
                "matchLabels": {"app": "web"},
                "matchExpressions": [{"key": "tier", "operator": "Exists"}],
            },
            {"app": "web"},
            False,
        ),
    ],
)
def test_selector_matches_labels(selector: Json, labels: dict[str, str], matches: bool) -> None:
    read = read_selector(selector)
    assert read
    assert read.matches(labels) is matches


def test_missing_selector_differs_from_empty_selector() -> None:
    assert read_selector(None) is None
    assert read_selector({}) == Selector(())


def test_only_running_pods_with_their_own_address_are_read() -> None:
    others = [pod(None), pod(phase="Succeeded"), pod(phase="Failed"), pod(hostNetwork=True)]
    found = read_pods([*others, pod("10.88.0.10"), pod("10.88.0.9", phase="Pending")])
    assert [found_pod.address for found_pod in found] == ["10.88.0.9", "10.88.0.10"]


def test_named_ports_of_sidecars_are_read() -> None:
    side = {"ports": [{"name": "metrics", "containerPort": 9090}, {"containerPort": 1}]}
    main = {"ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]}
    (found,) = read_pods([pod(containers=[main], initContainers=[side])])
    assert [(port.name, port.protocol, port.number) for port in found.ports] == [
        ("metrics", "TCP", 9090),
        ("dns", "UDP", 53),
    ]


def test_policy_without_types_restricts_ingress() -> None:
    read = read_policy(policy())
    assert (read.ingress, read.egress) == ((), None)


def test_direction_without_rules_permits_none_and_empty_rule_all() -> None:
    read = read_policy(policy(policyTypes=["Ingress", "Egress"], egress=[{}]))
    assert (read.ingress, read.egress) == ((), (Rule(None, None),))


def test_peers_and_ports_are_parsed() -> None:
    peers = [
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.88.0.0/16"]}},
        {"namespaceSelector": {}},
        {"podSelector": {}},
        {"ipBlock": {"cidr": "fd00::/8"}},  # the cluster has no IPv6
    ]
    ports = [
        {"port": "http"},
        {"protocol": "UDP", "port": 5000, "endPort": 5010},
        {"protocol": "SCTP"},
    ]
    (rule,) = read_policy(policy(ingress=[{"from": peers, "ports": ports}])).ingress or ()
    everything = Selector(())
    assert rule.peers == (
        IpBlock("10.0.0.0/8", ("10.88.0.0/16",)),
        PodPeer(everything, None),
        PodPeer(None, everything),
    )
    assert rule.ports == (Port("TCP", "http"), Port("UDP", 5000, 5010), Port("SCTP", None))


def test_unsupported_peers_match_no_pod() -> None:
    (rule,) = (
        read_policy(policy(ingress=[{"from": [{"ipBlock": {"cidr": "fd00::/8"}}]}])).ingress or ()
    )
    assert rule.peers == ()
