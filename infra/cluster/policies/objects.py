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
    pods = (_read_pod(entry) for entry in found)
    return tuple(
        sorted((pod for pod in pods if pod), key=lambda pod: ipaddress.ip_address(pod.address))
    )


def read_policy(found: Json) -> Policy:
    spec = found["spec"]
    types = spec.get("policyTypes") or ["Ingress"]
    return Policy(
        namespace=found["metadata"]["namespace"],
        selector=read_selector(spec.get("podSelector")) or Selector(()),
        ingress=_read_rules(spec.get("ingress"), "from") if "Ingress" in types else None,
        egress=_read_rules(spec.get("egress"), "to") if "Egress" in types else None,
    )


def _read_pod(found: Json) -> Pod | None:
    spec, status, metadata = found["spec"], found.get("status", {}), found["metadata"]
    address, ended = status.get("podIP"), status.get("phase") in ("Succeeded", "Failed")
    if not address or ended or spec.get("hostNetwork"):
        return None
    ports = [
        NamedPort(port["name"], port.get("protocol", "TCP"), port["containerPort"])
        for container in (*(spec.get("initContainers") or ()), *spec["containers"])
        for port in container.get("ports") or ()
        if "name" in port
    ]
    return Pod(metadata["namespace"], address, metadata.get("labels") or {}, tuple(ports))


def _read_rules(found: Sequence[Json] | None, side: str) -> tuple[Rule, ...]:
    return tuple(
        Rule(_read_peers(entry.get(side)), _read_ports(entry.get("ports"))) for entry in found or ()
    )


def _read_peers(found: Sequence[Json] | None) -> tuple[IpBlock | PodPeer, ...] | None:
    if not found:
        return None
    return tuple(peer for entry in found if (peer := _read_peer(entry)))


def _read_peer(found: Json) -> IpBlock | PodPeer | None:
    if block := found.get("ipBlock"):
        exceptions = tuple(filter(_is_ipv4, block.get("except") or ()))
        return IpBlock(block["cidr"], exceptions) if _is_ipv4(block["cidr"]) else None
    return PodPeer(
        read_selector(found.get("namespaceSelector")), read_selector(found.get("podSelector"))
    )


def _read_ports(found: Sequence[Json] | None) -> tuple[Port, ...] | None:
    if not found:
        return None
    return tuple(
        Port(entry.get("protocol", "TCP"), entry.get("port"), entry.get("endPort"))
        for entry in found
    )


def _is_ipv4(network: str) -> bool:
    return ipaddress.ip_network(network, strict=False).version == 4
