"""Rendering of policies as an nftables table with a chain per pod and direction.

Packets are dropped unless a rule returns from the chain. Service addresses are translated before
these hooks, so rules see pod addresses, as policies require. Packets between pods of the bridge
pass the forward hook because of bridge-nf-call-iptables. Packets of the node, including kubelet's
probes, pass neither hook; all implementations permit them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from infra.machine.cluster.policies.objects import IpBlock, Labels, Pod, PodPeer, Policy, Rule

TABLE = "thumbwheel_policies"
ANY = ""


class Direction(StrEnum):
    """Direction of a packet; the value is the address field of the peer."""

    INGRESS = "saddr"
    EGRESS = "daddr"

    @property
    def own_side(self) -> str:
        return {Direction.INGRESS: "daddr", Direction.EGRESS: "saddr"}[self]


@dataclass(frozen=True)
class ClusterState:
    """All objects that determine the rules."""

    pods: Sequence[Pod]
    namespaces: Mapping[str, Labels]
    policies: Sequence[Policy]

    def selected_pods(self, peer: PodPeer, namespace: str) -> list[Pod]:
        """Return the pods that a peer selects for a policy of the namespace."""
        return [
            pod
            for pod in self.pods
            if (
                pod.namespace == namespace
                if peer.namespaces is None
                else peer.namespaces.matches(self.namespaces.get(pod.namespace, {}))
            )
            and (peer.pods is None or peer.pods.matches(pod.labels))
        ]


def render(state: ClusterState) -> str:
    """Return the table, which replaces the previous one atomically."""
    chains: list[str] = []
    jumps: dict[Direction, list[str]] = {direction: [] for direction in Direction}
    for direction in (Direction.EGRESS, Direction.INGRESS):
        for pod in state.pods:
            policies = [
                policy
                for policy in state.policies
                if policy.namespace == pod.namespace
                and _rules_of(policy, direction) is not None
                and policy.selector.matches(pod.labels)
            ]
            if policies:
                name = f"{direction.name.lower()}_{pod.address.replace('.', '_')}"
                rules = sorted(
                    {rule for policy in policies for rule in _rules(state, policy, pod, direction)}
                )
                # Policies never restrict the traffic of a pod to itself.
                own_traffic = f"ip {direction} {pod.address} return"
                chains.append(_chain(name, [own_traffic, *rules, "counter drop"]))
                jumps[direction].append(f"ip {direction.own_side} {pod.address} jump {name}")
    # Policies apply to new connections; packets of established ones always pass.
    known = "ct state established,related accept"
    forward = [_hook("forward"), known, *jumps[Direction.EGRESS], *jumps[Direction.INGRESS]]
    to_node = [_hook("input"), known, *jumps[Direction.EGRESS]]
    body = "".join([*chains, _chain("forward", forward), _chain("input", to_node)])
    # `delete` fails for a missing table, so the table is declared first; nft applies all in one go.
    return f"table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n{body}}}\n"


def _chain(name: str, lines: Sequence[str]) -> str:
    return "".join([f"  chain {name} {{\n", *(f"    {line}\n" for line in lines), "  }\n"])


def _hook(name: str) -> str:
    return f"type filter hook {name} priority 10; policy accept;"


def _rules_of(policy: Policy, direction: Direction) -> tuple[Rule, ...] | None:
    return policy.ingress if direction is Direction.INGRESS else policy.egress


def _rules(state: ClusterState, policy: Policy, pod: Pod, direction: Direction) -> Iterator[str]:
    """Yield the rules of a policy for a pod."""
    for rule in _rules_of(policy, direction) or ():
        if rule.peers is None:
            servers = [pod] if direction is Direction.INGRESS else state.pods
            yield from _returns(ANY, rule, servers)
            continue
        for peer in rule.peers:
            if isinstance(peer, IpBlock):
                servers = [pod] if direction is Direction.INGRESS else state.pods
                block = f"ip {direction} {peer.addresses}"
                if peer.exceptions:
                    block += f" ip {direction} != {{ {', '.join(peer.exceptions)} }}"
                yield from _returns(block, rule, servers)
            elif peers := state.selected_pods(peer, policy.namespace):
                addresses = ", ".join(other.address for other in peers)
                servers = [pod] if direction is Direction.INGRESS else peers
                yield from _returns(f"ip {direction} {{ {addresses} }}", rule, servers)


def _returns(peer: str, rule: Rule, servers: Sequence[Pod]) -> Iterator[str]:
    matches = [ANY] if rule.ports is None else []
    for port in rule.ports or ():
        protocol = port.protocol.lower()
        if port.first is None:
            matches.append(f"meta l4proto {protocol}")
        elif isinstance(port.first, int):
            matches.append(f"{protocol} dport {port.first}{f'-{port.last}' if port.last else ''}")
        else:
            # The pods that serve a named port define its number.
            wanted = {
                named.number
                for pod in servers
                for named in pod.ports
                if (named.name, named.protocol) == (port.first, port.protocol)
            }
            matches.extend(f"{protocol} dport {number}" for number in sorted(wanted))
    for ports in matches:
        yield " ".join(filter(None, (peer, ports, "return")))
