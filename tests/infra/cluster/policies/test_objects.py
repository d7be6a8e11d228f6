"""Selectors, pods and policies mean what the API says that they mean."""

import pytest

from infra.cluster.policies.objects import (
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
def test_a_selector_matches(selector: Json, labels: dict[str, str], matches: bool) -> None:
    read = read_selector(selector)
    assert read
    assert read.matches(labels) is matches


def test_no_selector_is_not_an_empty_one() -> None:
    assert read_selector(None) is None
    assert read_selector({}) == Selector(())


def test_only_pods_with_an_address_of_their_own_that_have_not_ended_count() -> None:
    others = [pod(None), pod(phase="Succeeded"), pod(phase="Failed"), pod(hostNetwork=True)]
    found = read_pods([*others, pod("10.88.0.10"), pod("10.88.0.9", phase="Pending")])
    assert [found_pod.address for found_pod in found] == ["10.88.0.9", "10.88.0.10"]


def test_sidecars_name_ports_too() -> None:
    side = {"ports": [{"name": "metrics", "containerPort": 9090}, {"containerPort": 1}]}
    main = {"ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]}
    (found,) = read_pods([pod(containers=[main], initContainers=[side])])
    assert [(port.name, port.protocol, port.number) for port in found.ports] == [
        ("metrics", "TCP", 9090),
        ("dns", "UDP", 53),
    ]


def test_a_policy_without_types_is_about_what_comes_in() -> None:
    read = read_policy(policy())
    assert (read.ingress, read.egress) == ((), None)


def test_a_direction_without_rules_lets_nobody_and_an_empty_rule_everybody() -> None:
    read = read_policy(policy(policyTypes=["Ingress", "Egress"], egress=[{}]))
    assert (read.ingress, read.egress) == ((), (Rule(None, None),))


def test_peers_and_ports_are_read() -> None:
    peers = [
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.88.0.0/16"]}},
        {"namespaceSelector": {}},
        {"podSelector": {}},
        {"ipBlock": {"cidr": "fd00::/8"}},  # there is no IPv6 in here
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


def test_peers_that_cannot_be_here_are_nobody_rather_than_everybody() -> None:
    (rule,) = (
        read_policy(policy(ingress=[{"from": [{"ipBlock": {"cidr": "fd00::/8"}}]}])).ingress or ()
    )
    assert rule.peers == ()
