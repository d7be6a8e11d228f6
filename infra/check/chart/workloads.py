"""Pods of a rendering: templates of all kinds of workloads, and what selects them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.check.chart.chart import Object

SERVERS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")
SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")


@dataclass(frozen=True)
class Pod:
    """A pod template and the object that contains it.

    `custom`: the object belongs to an operator, which may add to the pod.
    """

    owner: Object
    template: Mapping[str, Any]
    custom: bool = False

    @property
    def name(self) -> str:
        return title(self.owner)

    @property
    def spec(self) -> Mapping[str, Any]:
        return self.template.get("spec") or {}

    @property
    def labels(self) -> Mapping[str, str]:
        return (self.template.get("metadata") or {}).get("labels") or {}

    @property
    def annotations(self) -> Mapping[str, str]:
        return (self.template.get("metadata") or {}).get("annotations") or {}

    @property
    def main_containers(self) -> Sequence[Mapping[str, Any]]:
        return self.spec.get("containers") or []

    @property
    def containers(self) -> Sequence[Mapping[str, Any]]:
        """Return containers and init containers."""
        return [*self.main_containers, *(self.spec.get("initContainers") or [])]

    @property
    def server(self) -> bool:
        return self.owner["kind"] in SERVERS

    @property
    def probed(self) -> Sequence[Mapping[str, Any]]:
        """Return the containers that accept connections: those with ports, or the only one."""
        with_ports = [item for item in self.main_containers if item.get("ports")]
        return with_ports or self.main_containers[:1]


def title(found: Object) -> str:
    return f"{found['kind']}/{(found.get('metadata') or {}).get('name', '?')}"


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    return [found for found in objects if found.get("kind") in kinds]


def is_test(found: Object) -> bool:
    """Return whether an object is a hook of `helm test`."""
    annotations = (found.get("metadata") or {}).get("annotations") or {}
    return "test" in str(annotations.get("helm.sh/hook", ""))


def pods(objects: Sequence[Object], custom: bool = True, tests: bool = True) -> list[Pod]:
    """Return the pod templates of all objects.

    Args:
        custom: include those within objects of operators.
        tests: include hooks of `helm test`.
    """
    return [
        pod
        for found in objects
        if tests or not is_test(found)
        for pod in _pods_of(found)
        if custom or not pod.custom
    ]


def servers(objects: Sequence[Object]) -> list[Pod]:
    """Return the pods that run until they are deleted."""
    return [pod for pod in pods(objects) if pod.server]


def _pods_of(found: Object) -> Iterator[Pod]:
    kind, spec = found.get("kind"), found.get("spec") or {}
    if kind in (*SERVERS, "Job"):
        yield Pod(found, spec.get("template") or {})
    elif kind == "CronJob":
        yield Pod(found, spec["jobTemplate"]["spec"]["template"])
    elif kind == "Pod":
        yield Pod(found, found)
    elif kind != "CustomResourceDefinition":
        yield from (Pod(found, template, custom=True) for template in _templates(spec))


def _templates(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield pod templates at any depth of an object of an operator."""
    if isinstance(value, Mapping):
        containers = value.get("containers")
        if isinstance(containers, list) and containers and isinstance(containers[0], Mapping):
            yield {"spec": value}
            return
        for inner in value.values():
            yield from _templates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _templates(inner)


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Return whether a label selector (matchLabels, matchExpressions) selects labels.

    An empty selector selects everything, None selects nothing.
    """
    if selector is None:
        return False
    wanted = selector.get("matchLabels") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for term in selector.get("matchExpressions") or []:
        key, values = term["key"], term.get("values") or []
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[term["operator"]]
        if not holds:
            return False
    return True


def services_of(objects: Sequence[Object], pod: Pod) -> list[Object]:
    """Return the Services that select a pod."""
    return [
        service
        for service in of_kind(objects, "Service")
        if (selector := (service.get("spec") or {}).get("selector"))
        and selects({"matchLabels": selector}, pod.labels)
    ]


def scalers_of(objects: Sequence[Object], pod: Pod) -> list[Object]:
    """Return the autoscalers of a workload."""
    return [
        scaler
        for scaler in of_kind(objects, *SCALERS)
        if (target := scaler["spec"].get("scaleTargetRef") or {}).get("name")
        == pod.owner["metadata"]["name"]
        and target.get("kind", "Deployment") == pod.owner["kind"]
    ]


def replicas(objects: Sequence[Object], pod: Pod) -> int:
    """Return the smallest number of pods of a workload; a DaemonSet counts as replicated."""
    if pod.owner["kind"] == "DaemonSet":
        return 2
    for scaler in scalers_of(objects, pod):
        fewest = ("minReplicas", 1) if scaler["kind"] == SCALERS[0] else ("minReplicaCount", 0)
        return int(scaler["spec"].get(*fewest))
    count = pod.owner["spec"].get("replicas")
    return 1 if count is None else int(count)


def share(value: Any, total: int, up: bool) -> int:
    """Return a number or a percentage of `total` as a number of pods."""
    if percent := re.fullmatch(r"(\d+)%", str(value)):
        return (total * int(percent[1]) + (99 if up else 0)) // 100
    return int(value)
