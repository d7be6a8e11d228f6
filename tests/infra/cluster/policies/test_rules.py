"""Policies become chains: a pod that none selects has none, and what no rule returns from is
dropped.
"""

import re
from collections.abc import Sequence

from infra.cluster.policies.objects import (
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
from infra.cluster.policies.rules import ClusterState, render

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
    """Lines of every chain."""
    table = render(ClusterState(pods, NAMESPACES, policies))
    found = re.findall(r"chain (\w+) \{\n(.*?)\n  \}", table, re.DOTALL)
    return {name: [line.strip() for line in body.splitlines()] for name, body in found}


def allowed(*rules: Rule) -> list[str]:
    """Into the web pod."""
    return chains(into_web(*rules))["ingress_10_88_0_2"][1:-1]


def let_out(*rules: Rule) -> list[str]:
    return chains(out_of_caller(*rules))["egress_10_88_0_3"][1:-1]


def test_without_policies_everything_passes() -> None:
    assert set(chains()) == {"forward", "input"}
    assert chains()["forward"][0].endswith("policy accept;")


def test_the_table_is_replaced_in_one_go() -> None:
    lines = render(ClusterState((), {}, ())).splitlines()
    assert lines[:2] == ["table inet thumbwheel_policies", "delete table inet thumbwheel_policies"]


def test_a_policy_without_rules_drops_what_is_not_the_pods_own() -> None:
    found = chains(into_web())
    assert found["ingress_10_88_0_2"] == ["ip saddr 10.88.0.2 return", "counter drop"]
    assert found["forward"][2:] == ["ip daddr 10.88.0.2 jump ingress_10_88_0_2"]
    # What the node sends, kubelet's probes among it, comes through neither hook.
    assert found["input"] == [
        "type filter hook input priority 10; policy accept;",
        "ct state established,related accept",
    ]


def test_what_leaves_a_pod_is_looked_at_on_its_way_to_the_node_too() -> None:
    found = chains(out_of_caller())
    jump = "ip saddr 10.88.0.3 jump egress_10_88_0_3"
    assert found["forward"][-1] == found["input"][-1] == jump


def test_a_rule_without_peers_and_ports_lets_everybody_in() -> None:
    assert allowed(Rule(None, None)) == ["return"]


def test_pods_are_chosen_in_the_policys_own_namespace() -> None:
    assert allowed(Rule((PodPeer(None, labelled("app", "caller")),), None)) == [
        "ip saddr { 10.88.0.3 } return"
    ]


def test_a_namespace_is_chosen_by_its_labels_with_all_its_pods() -> None:
    assert allowed(Rule((PodPeer(labelled("team", "b"), None),), None)) == [
        "ip saddr { 10.88.0.4 } return"
    ]


def test_namespace_and_pods_must_both_fit() -> None:
    assert allowed(Rule((PodPeer(EVERYTHING, labelled("app", "caller")),), None)) == [
        "ip saddr { 10.88.0.3, 10.88.0.4 } return"
    ]
    assert allowed(Rule((PodPeer(labelled("team", "b"), labelled("app", "web")),), None)) == []


def test_blocks_leave_out_what_they_leave_out() -> None:
    assert allowed(Rule((IpBlock("10.0.0.0/8", ("10.88.0.0/16", "10.89.0.0/24")),), None)) == [
        "ip saddr 10.0.0.0/8 ip saddr != { 10.88.0.0/16, 10.89.0.0/24 } return"
    ]
    assert let_out(Rule((IpBlock("0.0.0.0/0", ()),), None)) == ["ip daddr 0.0.0.0/0 return"]


def test_ports_are_numbers_ranges_protocols_and_names() -> None:
    ports = (Port("TCP", 80), Port("UDP", 5000, 5010), Port("SCTP", None), Port("TCP", "http"))
    assert allowed(Rule(None, ports)) == [
        "meta l4proto sctp return",
        "tcp dport 80 return",
        "tcp dport 8080 return",
        "udp dport 5000-5010 return",
    ]


def test_a_name_means_what_the_server_calls_so_by_the_same_protocol() -> None:
    assert allowed(Rule(None, (Port("UDP", "http"),))) == []
    everybody = PodPeer(EVERYTHING, None)
    assert let_out(Rule((everybody,), (Port("TCP", "http"),))) == [
        "ip daddr { 10.88.0.2, 10.88.0.3, 10.88.0.4 } tcp dport 8080 return",
        "ip daddr { 10.88.0.2, 10.88.0.3, 10.88.0.4 } tcp dport 9090 return",
    ]


def test_what_one_policy_lets_in_another_does_not_keep_out() -> None:
    found = chains(
        into_web(),
        into_web(Rule(None, (Port("TCP", 80),))),
        into_web(Rule(None, (Port("TCP", 81),))),
    )
    assert found["ingress_10_88_0_2"][1:-1] == ["tcp dport 80 return", "tcp dport 81 return"]


def test_a_policy_of_another_namespace_says_nothing_here() -> None:
    assert set(chains(Policy("other", labelled("app", "web"), (), ()))) == {"forward", "input"}
