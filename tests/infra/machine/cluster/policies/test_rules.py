"""Rendering of policies: no chain for unselected pods, drop without a matching rule."""

import re
from collections.abc import Sequence

from infra.machine.cluster.policies.objects import (
    Expression,
    IpBlock,
    NamedPort,
    Operator,
    Pod,
    PodPeer,
    Policy,
    Port,
    Rule,
    Selector,
)
from infra.machine.cluster.policies.rules import ClusterState, render

EVERYTHING = Selector(())
HTTP = NamedPort("http", "TCP", 8080)
WEB = Pod("demo", "10.88.0.2", {"app": "web"}, (HTTP,))
CALLER = Pod("demo", "10.88.0.3", {"app": "caller"}, ())
FOREIGN = Pod("other", "10.88.0.4", {"app": "caller"}, (NamedPort("http", "TCP", 9090),))
NAMESPACES = {"demo": {"team": "a"}, "other": {"team": "b"}}


def labelled(key: str, value: str) -> Selector:
    return Selector((Expression(key, Operator.IN, frozenset({value})),))


def into_web(*rules: Rule) -> Policy:
    return Policy("demo", labelled("app", "web"), rules, None)


def out_of_caller(*rules: Rule) -> Policy:
    return Policy("demo", labelled("app", "caller"), None, rules)


def chains(*policies: Policy, pods: Sequence[Pod] = (WEB, CALLER, FOREIGN)) -> dict[str, list[str]]:
    """Return the lines of every chain."""
    table = render(ClusterState(pods, NAMESPACES, policies))
    found = re.findall(r"chain (\w+) \{\n(.*?)\n  \}", table, re.DOTALL)
    return {name: [line.strip() for line in body.splitlines()] for name, body in found}


def allowed(*rules: Rule) -> list[str]:
    """Return the rules into the web pod."""
    return chains(into_web(*rules))["ingress_10_88_0_2"][1:-1]


def let_out(*rules: Rule) -> list[str]:
    return chains(out_of_caller(*rules))["egress_10_88_0_3"][1:-1]


def test_without_policies_all_traffic_passes() -> None:
    assert set(chains()) == {"forward", "input"}
    assert chains()["forward"][0].endswith("policy accept;")


def test_table_is_replaced_atomically() -> None:
    lines = render(ClusterState((), {}, ())).splitlines()
    assert lines[:2] == ["table inet thumbwheel_policies", "delete table inet thumbwheel_policies"]


def test_policy_without_rules_drops_traffic_of_others() -> None:
    found = chains(into_web())
    assert found["ingress_10_88_0_2"] == ["ip saddr 10.88.0.2 return", "counter drop"]
    assert found["forward"][2:] == ["ip daddr 10.88.0.2 jump ingress_10_88_0_2"]
    # Traffic of the node, including kubelet's probes, passes neither hook.
    assert found["input"] == [
        "type filter hook input priority 10; policy accept;",
        "ct state established,related accept",
    ]


def test_egress_rules_apply_to_traffic_to_the_node() -> None:
    found = chains(out_of_caller())
    jump = "ip saddr 10.88.0.3 jump egress_10_88_0_3"
    assert found["forward"][-1] == found["input"][-1] == jump


def test_rule_without_peers_and_ports_permits_all() -> None:
    assert allowed(Rule(None, None)) == ["return"]


def test_pod_selector_applies_to_the_policys_namespace() -> None:
    assert allowed(Rule((PodPeer(None, labelled("app", "caller")),), None)) == [
        "ip saddr { 10.88.0.3 } return"
    ]


def test_namespace_selector_includes_all_pods() -> None:
    assert allowed(Rule((PodPeer(labelled("team", "b"), None),), None)) == [
        "ip saddr { 10.88.0.4 } return"
    ]


def test_namespace_and_pod_selectors_must_both_match() -> None:
    assert allowed(Rule((PodPeer(EVERYTHING, labelled("app", "caller")),), None)) == [
        "ip saddr { 10.88.0.3, 10.88.0.4 } return"
    ]
    assert allowed(Rule((PodPeer(labelled("team", "b"), labelled("app", "web")),), None)) == []


def test_exceptions_of_blocks_are_rendered() -> None:
    assert allowed(Rule((IpBlock("10.0.0.0/8", ("10.88.0.0/16", "10.89.0.0/24")),), None)) == [
        "ip saddr 10.0.0.0/8 ip saddr != { 10.88.0.0/16, 10.89.0.0/24 } return"
    ]
    assert let_out(Rule((IpBlock("0.0.0.0/0", ()),), None)) == ["ip daddr 0.0.0.0/0 return"]


def test_ports_may_be_numbers_ranges_protocols_and_names() -> None:
    ports = (Port("TCP", 80), Port("UDP", 5000, 5010), Port("SCTP", None), Port("TCP", "http"))
    assert allowed(Rule(None, ports)) == [
        "meta l4proto sctp return",
        "tcp dport 80 return",
        "tcp dport 8080 return",
        "udp dport 5000-5010 return",
    ]


def test_named_port_is_resolved_by_the_serving_pod_and_protocol() -> None:
    assert allowed(Rule(None, (Port("UDP", "http"),))) == []
    everybody = PodPeer(EVERYTHING, None)
    assert let_out(Rule((everybody,), (Port("TCP", "http"),))) == [
        "ip daddr { 10.88.0.2, 10.88.0.3, 10.88.0.4 } tcp dport 8080 return",
        "ip daddr { 10.88.0.2, 10.88.0.3, 10.88.0.4 } tcp dport 9090 return",
    ]


def test_policies_are_additive() -> None:
    found = chains(
        into_web(),
        into_web(Rule(None, (Port("TCP", 80),))),
        into_web(Rule(None, (Port("TCP", 81),))),
    )
    assert found["ingress_10_88_0_2"][1:-1] == ["tcp dport 80 return", "tcp dport 81 return"]


def test_policy_of_another_namespace_has_no_effect() -> None:
    assert set(chains(Policy("other", labelled("app", "web"), (), ()))) == {"forward", "input"}
