"""Pods, namespaces, selectors, peers and ports of NetworkPolicies, parsed from API JSON.

Only IPv4 is supported, as in the cluster.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

Json: TypeAlias = Mapping[str, Any]
Labels: TypeAlias = Mapping[str, str]


class Operator(StrEnum):
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True)
class Expression:
    """An entry of matchExpressions in a selector."""

    key: str
    operator: Operator
    values: frozenset[str]

    def matches(self, labels: Labels) -> bool:
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:  # also matches objects without the label
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels


@dataclass(frozen=True)
class Selector:
    """A selector. An empty selector matches all objects."""

    expressions: tuple[Expression, ...]

    def matches(self, labels: Labels) -> bool:
        return all(expression.matches(labels) for expression in self.expressions)


@dataclass(frozen=True)
class NamedPort:
    """A named port of a container."""

    name: str
    protocol: str
    number: int


@dataclass(frozen=True)
class Pod:
    """A running pod with its own address."""

    namespace: str
    address: str
    labels: Labels
    ports: tuple[NamedPort, ...]


@dataclass(frozen=True)
class IpBlock:
    """A block of addresses with exceptions."""

    addresses: str
    exceptions: tuple[str, ...]


@dataclass(frozen=True)
class PodPeer:
    """Pods selected by labels in namespaces selected by labels.

    `namespaces` None selects the policy's own namespace; `pods` None selects all pods.
    """

    namespaces: Selector | None
    pods: Selector | None


@dataclass(frozen=True)
class Port:
    """A port, a range of ports, or the name of a container's port.

    None selects all ports of the protocol.
    """

    protocol: str
    first: int | str | None
    last: int | None = None


@dataclass(frozen=True)
class Rule:
    """Permission for peers and ports. None selects all peers or all ports."""

    peers: tuple[IpBlock | PodPeer, ...] | None
    ports: tuple[Port, ...] | None


@dataclass(frozen=True)
class Policy:
    """A NetworkPolicy.

    A direction of None is not restricted. A direction without rules permits no traffic.
    """

    namespace: str
    selector: Selector
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None


def read_selector(found: Json | None) -> Selector | None:
    if found is None:
        return None
    labels = [
        Expression(key, Operator.IN, frozenset({value}))
        for key, value in found.get("matchLabels", {}).items()
    ]
    expressions = [
        Expression(entry["key"], Operator(entry["operator"]), frozenset(entry.get("values") or ()))
        for entry in found.get("matchExpressions") or ()
    ]
    return Selector((*labels, *expressions))


def read_pods(found: Iterable[Json]) -> tuple[Pod, ...]:
    """Return the pods that policies can select."""
    pods = []
    for entry in found:
        spec, status, metadata = entry["spec"], entry.get("status", {}), entry["metadata"]
        address, ended = status.get("podIP"), status.get("phase") in ("Succeeded", "Failed")
        # Pods on the network of the host have no address of their own.
        if not address or ended or spec.get("hostNetwork"):
            continue
        ports = [
            NamedPort(port["name"], port.get("protocol", "TCP"), port["containerPort"])
            for container in (*(spec.get("initContainers") or ()), *spec["containers"])
            for port in container.get("ports") or ()
            if "name" in port
        ]
        labels = metadata.get("labels") or {}
        pods.append(Pod(metadata["namespace"], address, labels, tuple(ports)))
    return tuple(sorted(pods, key=lambda pod: ipaddress.ip_address(pod.address)))


def read_policy(found: Json) -> Policy:
    spec = found["spec"]
    types = spec.get("policyTypes") or ["Ingress"]
    return Policy(
        namespace=found["metadata"]["namespace"],
        selector=read_selector(spec.get("podSelector")) or Selector(()),
        ingress=_read_rules(spec.get("ingress"), "from") if "Ingress" in types else None,
        egress=_read_rules(spec.get("egress"), "to") if "Egress" in types else None,
    )


def _read_rules(found: Sequence[Json] | None, side: str) -> tuple[Rule, ...]:
    rules = []
    for entry in found or ():
        peers: list[IpBlock | PodPeer] = []
        for peer in entry.get(side) or ():
            if block := peer.get("ipBlock"):
                if _is_ipv4(block["cidr"]):
                    exceptions = filter(_is_ipv4, block.get("except") or ())
                    peers.append(IpBlock(block["cidr"], tuple(exceptions)))
            else:
                namespaces = read_selector(peer.get("namespaceSelector"))
                peers.append(PodPeer(namespaces, read_selector(peer.get("podSelector"))))
        ports = tuple(
            Port(port.get("protocol", "TCP"), port.get("port"), port.get("endPort"))
            for port in entry.get("ports") or ()
        )
        # A missing or empty list selects all peers. A list of IPv6 blocks only selects no peer.
        rules.append(Rule(tuple(peers) if entry.get(side) else None, ports or None))
    return tuple(rules)


def _is_ipv4(network: str) -> bool:
    return ipaddress.ip_network(network, strict=False).version == 4
